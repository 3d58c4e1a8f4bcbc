"""The papers whose tables are repeated."""

from __future__ import annotations

PAPERS = {
    "aitm": "Xi et al., Modeling the Sequential Dependence among Audience Multi-step Conversions with Multi-task Learning in"
    " Targeted Display Advertising, KDD 2021",
    "apem": "Adaptive Pattern Extraction Multi-Task Learning for Multi-Step Conversion Estimations, arXiv 2301.02494",
    "man": "Luo et al., Multi-Task Deep Learning with Task Attention for Post-Click Conversion Rate Prediction, IASC 2023",
    "dtrn": "Liu et al., Deep Task-specific Bottom Representation Network for Multi-Task Recommendation, CIKM 2023",
}
