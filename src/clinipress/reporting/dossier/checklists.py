"""The items of two reporting checklists in our own short words, and what of the records answers.

CLAIM: Checklist for Artificial Intelligence in Medical Imaging, 2024 update (Tejani et al.,
Radiology: Artificial Intelligence 2024;6(4):e240300), 44 items. TRIPOD+AI: Collins et al., BMJ
2024;385:e078378, 27 items, many of them in parts (52 lines). The numbers are the checklists' own;
the words are not, and whoever reports to a journal fills in the checklist itself.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CLAIM", "TRIPOD_AI", "Item"]


class Item(NamedTuple):
    """One line of a checklist.

    Attributes:
        number: The checklist's own: "14", "12c".
        section: Where it belongs in an article.
        asks: What is asked for, in short words.
        topic: What of the records answers it, a name in `clinipress.reporting.dossier.answers`;
            None: nothing.
        rest: What the records can never say of it; empty where they may say all.
    """

    number: str
    section: str
    asks: str
    topic: str | None = None
    rest: str = ""


CLAIM: tuple[Item, ...] = (
    Item("1", "Title", "The use of AI, and which kind", "technology", "the title"),
    Item(
        "2", "Abstract", "Summary of design, methods, results, conclusions", "verdict", "the rest"
    ),
    Item(
        "3",
        "Introduction",
        "Background, intended use and role of the AI",
        "purpose",
        "clinical background and role",
    ),
    Item("4", "Introduction", "Aims, objectives, hypotheses", "hypothesis", "the clinical aim"),
    Item("5", "Design", "Prospective or retrospective"),
    Item("6", "Design", "Goal of the study", "hypothesis", "the clinical goal"),
    Item("7", "Data", "Sources of the data", "source", "origin, dates, licence, links"),
    Item(
        "8",
        "Data",
        "Inclusion and exclusion",
        "excluded",
        "how patients and examinations were chosen",
    ),
    Item("9", "Data", "Preprocessing", "preprocessing", "what was done before the files came here"),
    Item("10", "Data", "Selection of parts of the data"),
    Item("11", "Data", "De-identification"),
    Item("12", "Data", "Missing data", "missing", "missing labels and clinical facts"),
    Item("13", "Data", "How the images were acquired"),
    Item(
        "14",
        "Reference standard",
        "How the reference standard is defined",
        "labels",
        "how the labels were obtained",
    ),
    Item("15", "Reference standard", "Why this reference standard"),
    Item("16", "Reference standard", "Who annotated, and their qualification"),
    Item("17", "Reference standard", "How the test images were annotated"),
    Item(
        "18",
        "Reference standard",
        "Variability within and between annotators",
        "conflicts",
        "variability within and between annotators",
    ),
    Item("19", "Partitions", "How data were assigned to partitions", "partitions"),
    Item("20", "Partitions", "Level at which partitions are disjoint", "disjoint"),
    Item(
        "21", "Testing data", "Intended sample size", "size", "the size that was intended, and why"
    ),
    Item("22", "Model", "Description of the model", "model", "its layers"),
    Item("23", "Model", "Software with versions", "software"),
    Item("24", "Model", "Initial parameters", "initial"),
    Item("25", "Training", "Details of training", "training"),
    Item("26", "Training", "How the final model was selected", "selection"),
    Item("27", "Training", "Ensembles", "ensemble"),
    Item(
        "28", "Evaluation", "Metrics of performance", "metrics", "comparison with published models"
    ),
    Item("29", "Evaluation", "Significance and uncertainty", "uncertainty"),
    Item("30", "Evaluation", "Robustness or sensitivity analysis", "stress"),
    Item("31", "Evaluation", "Explanation methods", "saliency"),
    Item("32", "Evaluation", "Evaluation on internal data", "internal"),
    Item("33", "Evaluation", "Testing on external data", "external"),
    Item("34", "Evaluation", "Registration of a clinical trial"),
    Item(
        "35",
        "Results: data",
        "Numbers included and excluded",
        "numbers",
        "patients and examinations before the files came here",
    ),
    Item(
        "36",
        "Results: data",
        "Demographic and clinical facts of each partition",
        "groups",
        "the rest",
    ),
    Item("37", "Results: model", "Performance with its uncertainty", "performance"),
    Item("38", "Results: model", "Diagnostic performance and its precision", "diagnostic"),
    Item(
        "39",
        "Results: model",
        "Analysis of wrong answers",
        "failures",
        "a clinician's reading of them",
    ),
    Item("40", "Discussion", "Limitations", "limits", "limitations of the clinical setting"),
    Item("41", "Discussion", "Implications for practice", "purpose", "implications for practice"),
    Item(
        "42", "Other", "Full protocol or further technical details", "protocol", "a public protocol"
    ),
    Item(
        "43", "Other", "Availability of software, model, data", "availability", "who may have them"
    ),
    Item("44", "Other", "Funding and the role of funders"),
)

TRIPOD_AI: tuple[Item, ...] = (
    Item(
        "1",
        "Title",
        "Develops or evaluates a model; for whom; which outcome",
        "technology",
        "the title and the population",
    ),
    Item("2", "Abstract", "The checklist for abstracts", "verdict", "the rest"),
    Item("3a", "Introduction", "Healthcare context, rationale, existing models"),
    Item(
        "3b",
        "Introduction",
        "Target population, purpose in the care pathway, users",
        "purpose",
        "population, care pathway and users",
    ),
    Item("3c", "Introduction", "Known health inequalities"),
    Item(
        "4", "Introduction", "Objectives: development, evaluation or both", "hypothesis", "the aim"
    ),
    Item(
        "5a",
        "Methods: data",
        "Sources of the data, rationale, representativeness",
        "source",
        "origin, rationale, representativeness",
    ),
    Item("5b", "Methods: data", "Dates of the data"),
    Item("6a", "Methods: participants", "Setting, number and place of centres"),
    Item("6b", "Methods: participants", "Eligibility", "excluded", "criteria for patients"),
    Item("6c", "Methods: participants", "Treatments received"),
    Item(
        "7",
        "Methods: preparation",
        "Preprocessing and quality checks, alike in all groups",
        "preparation",
        "whether alike in all groups before the files came here",
    ),
    Item(
        "8a",
        "Methods: outcome",
        "Outcome, how and when assessed",
        "labels",
        "how and when assessed",
    ),
    Item("8b", "Methods: outcome", "Qualification of those who assessed it"),
    Item("8c", "Methods: outcome", "Blinding of the assessment"),
    Item("9a", "Methods: predictors", "Choice of predictors", "predictors"),
    Item(
        "9b",
        "Methods: predictors",
        "Definition and measurement of predictors",
        "preprocessing",
        "how the images were acquired",
    ),
    Item("9c", "Methods: predictors", "Qualification of those who assessed predictors"),
    Item("10", "Methods: sample size", "Study size and why", "size", "how it was arrived at"),
    Item(
        "11",
        "Methods: missing data",
        "Missing data",
        "missing",
        "missing labels and clinical facts",
    ),
    Item("12a", "Methods: analysis", "How data were used and divided", "partitions"),
    Item("12b", "Methods: analysis", "How predictors were handled", "preprocessing"),
    Item(
        "12c",
        "Methods: analysis",
        "Type of model, building, tuning, internal validation",
        "building",
        "rationale",
    ),
    Item(
        "12d",
        "Methods: analysis",
        "Heterogeneity between clusters",
        "subgroups",
        "centres, countries",
    ),
    Item("12e", "Methods: analysis", "Measures and plots of performance", "metrics", "rationale"),
    Item("12f", "Methods: analysis", "Updating of the model", "updating"),
    Item("12g", "Methods: analysis", "How predictions were calculated", "predictions"),
    Item("13", "Methods: imbalance", "Methods for class imbalance", "imbalance", "why"),
    Item(
        "14", "Methods: fairness", "Approaches to fairness", "subgroups", "approaches and rationale"
    ),
    Item("15", "Methods: output", "Output and thresholds", "output", "rationale of the thresholds"),
    Item(
        "16",
        "Methods: evaluation",
        "Differences between development and evaluation data",
        "difference",
        "differences of setting and eligibility, if any",
    ),
    Item("17", "Methods: ethics", "Ethics committee and consent"),
    Item("18a", "Open science", "Funding"),
    Item("18b", "Open science", "Conflicts of interest"),
    Item("18c", "Open science", "Protocol", "protocol", "where it can be had"),
    Item("18d", "Open science", "Registration"),
    Item("18e", "Open science", "Data sharing", "split_file", "who may have the data"),
    Item("18f", "Open science", "Code sharing", "software", "where the code can be had"),
    Item("19", "Involvement", "Patients and the public"),
    Item("20a", "Results: participants", "Flow of participants", "numbers", "flow of patients"),
    Item("20b", "Results: participants", "Characteristics of participants", "groups", "the rest"),
    Item(
        "20c",
        "Results: participants",
        "Evaluation data beside development data",
        "counts",
        "distribution of demographics",
    ),
    Item("21", "Results: development", "Numbers in each analysis", "counts", "participants"),
    Item("22", "Results: specification", "The full model", "availability", "restrictions of use"),
    Item(
        "23a",
        "Results: performance",
        "Performance with intervals, also of groups",
        "performance_groups",
        "groups that were not measured",
    ),
    Item(
        "23b",
        "Results: performance",
        "Heterogeneity between clusters",
        "subgroups",
        "centres, countries",
    ),
    Item("24", "Results: updating", "Results of updating", "updating"),
    Item(
        "25",
        "Discussion",
        "Interpretation, fairness included",
        "meaning",
        "fairness, and earlier studies",
    ),
    Item("26", "Discussion", "Limitations", "limits", "limitations of the clinical setting"),
    Item("27a", "Discussion", "Poor or missing input in use"),
    Item("27b", "Discussion", "What users must do and know"),
    Item("27c", "Discussion", "Next steps for research"),
)
