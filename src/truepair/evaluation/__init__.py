"""Figures of retrieval, VQA, NLVR2 and captions, re-ranking and precision of suspects: arrays in, numbers out."""

from truepair.evaluation.aokvqa import AokvqaAccuracy, GivenAnswer, aokvqa_accuracy, write_aokvqa_predictions
from truepair.evaluation.captioning import CaptionFigures, score_captions, write_caption_results
from truepair.evaluation.coco import CocoGallery, CocoReport, load_coco_truths
from truepair.evaluation.detectors import SuspectPrecision, precision_at
from truepair.evaluation.metrics import DirectionMetrics, Estimate, RetrievalMetrics, evaluate_retrieval
from truepair.evaluation.nlvr2 import Nlvr2Metrics, nlvr2_metrics, write_nlvr2_results
from truepair.evaluation.reranking import (
    ITM_ALONE,
    Candidates,
    Combination,
    PairScorer,
    RerankedScores,
    Trial,
    choose_combination,
    find_candidates,
    score_candidates,
)
from truepair.evaluation.scores import CaptionScores, FeatureScores, MatrixScores, ScoreSource, SubsetScores
from truepair.evaluation.truth import ConversionCounter, Truth
from truepair.evaluation.vqa import TextBaseline, VqaAccuracy, answer_accuracy, vqa_accuracy, write_vqa_results

__all__ = [
    "ITM_ALONE",
    "AokvqaAccuracy",
    "Candidates",
    "CaptionFigures",
    "CaptionScores",
    "CocoGallery",
    "CocoReport",
    "Combination",
    "ConversionCounter",
    "DirectionMetrics",
    "Estimate",
    "FeatureScores",
    "GivenAnswer",
    "MatrixScores",
    "Nlvr2Metrics",
    "PairScorer",
    "RerankedScores",
    "RetrievalMetrics",
    "ScoreSource",
    "SubsetScores",
    "SuspectPrecision",
    "TextBaseline",
    "Trial",
    "Truth",
    "VqaAccuracy",
    "answer_accuracy",
    "aokvqa_accuracy",
    "choose_combination",
    "evaluate_retrieval",
    "find_candidates",
    "load_coco_truths",
    "nlvr2_metrics",
    "precision_at",
    "score_candidates",
    "score_captions",
    "vqa_accuracy",
    "write_aokvqa_predictions",
    "write_caption_results",
    "write_nlvr2_results",
    "write_vqa_results",
]
