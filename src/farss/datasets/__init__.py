from farss.datasets.catalogue import describe
from farss.datasets.knowledge import KnowledgeSet, Question, load_knowledge
from farss.datasets.resolve import load_rows

__all__ = ["KnowledgeSet", "Question", "describe", "load_knowledge", "load_rows"]
