"""Retrieval figures, re-ranking and precision of suspects: arrays in, numbers out."""

from truepair.evaluation.candidates import CandidatePairs, PairScorer, find_candidates, score_candidates
from truepair.evaluation.gallery import CaptionGallery
from truepair.evaluation.metrics import DirectionMetrics, Estimate, RetrievalMetrics, evaluate_retrieval
from truepair.evaluation.reranking import ITM_ALONE, Combination, RerankedScores, Trial, choose_combination
from truepair.evaluation.scores import FeatureScores, MatrixScores, ScoreSource
from truepair.evaluation.suspects import SuspectPrecision, precision_at
from truepair.evaluation.truth import RetrievalTruth

__all__ = [
    "ITM_ALONE",
    "CandidatePairs",
    "CaptionGallery",
    "Combination",
    "DirectionMetrics",
    "Estimate",
    "FeatureScores",
    "MatrixScores",
    "PairScorer",
    "RerankedScores",
    "RetrievalMetrics",
    "RetrievalTruth",
    "ScoreSource",
    "SuspectPrecision",
    "Trial",
    "choose_combination",
    "evaluate_retrieval",
    "find_candidates",
    "precision_at",
    "score_candidates",
]
