"""From vectors to a plane, and how far groups of vectors lie apart before that."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seqmtl.errors import SeqmtlError

Vectors = NDArray[np.floating]
FEWEST = 10  # rows of which a map says anything


def tsne(vectors: Vectors, perplexity: float, seed: int) -> NDArray[np.float64]:
    """t-SNE (van der Maaten and Hinton, 2008) from the two main components on: (N,W) → (N,2).

    The perplexity is at most a third of the other rows.

    Raises:
        SeqmtlError: there are too few rows.
    """
    from sklearn.manifold import TSNE

    if len(vectors) < FEWEST:
        raise SeqmtlError(f"a map of {len(vectors)} vectors shows nothing; it takes {FEWEST}: prepare more rows")
    made = TSNE(perplexity=min(perplexity, (len(vectors) - 1) / 3), init="pca", random_state=seed)
    return np.asarray(made.fit_transform(_scaled(vectors)), np.float64)


def pca(vectors: Vectors, seed: int) -> tuple[NDArray[np.float64], float]:
    """The two main components (N,2), and the share of the variance that they show.

    Raises:
        SeqmtlError: there are too few rows.
    """
    from sklearn.decomposition import PCA

    if len(vectors) < FEWEST:
        raise SeqmtlError(f"components of {len(vectors)} vectors show nothing; it takes {FEWEST}: prepare more rows")
    made = PCA(2, random_state=seed)
    plane = made.fit_transform(_scaled(vectors))
    return np.asarray(plane, np.float64), float(made.explained_variance_ratio_.sum())


def agreement(vectors: Vectors, groups: NDArray[np.generic], neighbours: int = 10) -> float:
    """The share of a vector's nearest neighbours that are of its own group, in the mean over the groups.

    In the space of the vectors, of which a map shows a part: 1 where the groups lie apart, 1/groups at chance where they are of
    equal size.
    """
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=min(neighbours, len(vectors) - 1)).fit(_scaled(vectors))
    near = search.kneighbors(return_distance=False)  # without the vector itself
    same = (groups[near] == groups[:, None]).mean(1)
    return float(np.mean([same[groups == group].mean() for group in np.unique(groups)]))


def _scaled(vectors: Vectors) -> NDArray[np.float64]:
    """Of mean square 1: what is learned here is as small as 1e-3, where t-SNE's start and its tolerances are absolute."""
    centred = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
    size = np.sqrt((centred**2).mean())
    return centred / size if size > 0 else centred
