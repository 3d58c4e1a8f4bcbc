"""Which parameters an optimizer trains, and with how much weight decay."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from seqmtl.errors import SeqmtlError

Named = Iterable[tuple[str, nn.Parameter]]


def freeze(named: Named, patterns: Sequence[str]) -> None:
    """Train no parameter in whose name one of the regexes is found.

    Raises:
        SeqmtlError: no list of regexes, one that finds no parameter, or nothing is left to train.
    """
    parameters = dict(named)
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise SeqmtlError(f"optimizer.freeze={patterns} must be a list of regexes: optimizer.freeze=[{patterns}]")
    for pattern in patterns:
        for name in _found(pattern, list(parameters), "optimizer.freeze"):
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise SeqmtlError(f"optimizer.freeze={patterns} leaves no parameter to train; they are {', '.join(parameters)}")


def parameter_groups(named: Named, decay: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Parameters by weight decay: that of the first rule whose regex is found in the name, else 0. Frozen ones are left out.

    With a coupled optimizer (Adam, SGD) the gradient is that of value/2·|w|² in the loss, the exact L2 of AITM's code.

    Raises:
        SeqmtlError: no list of rules, or one that finds no parameter.
    """
    if not isinstance(decay, list) or not all(isinstance(rule, Mapping) and rule.keys() == {"match", "value"} for rule in decay):
        raise SeqmtlError(f"optimizer.decay={decay} must be a list of rules, such as [{{match: embedding, value: 1e-6}}]")
    parameters = dict(named)
    value = dict.fromkeys(parameters, 0.0)
    for rule in reversed(decay):
        value |= dict.fromkeys(_found(rule["match"], list(parameters), "optimizer.decay"), float(rule["value"]))
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        if parameter.requires_grad:
            groups.setdefault(value[name], []).append(parameter)
    return [{"params": some, "weight_decay": weight} for weight, some in groups.items()]


def _found(pattern: str, names: list[str], option: str) -> list[str]:
    try:
        found = [name for name in names if re.search(pattern, name)]
    except re.error as e:
        raise SeqmtlError(f"{option}: '{pattern}' is no regex ({e})") from e
    if not found:
        raise SeqmtlError(f"{option}: '{pattern}' matches no parameter; they are {', '.join(names)}")
    return found
