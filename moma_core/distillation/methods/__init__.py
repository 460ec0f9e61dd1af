"""The methods that the paper compares with, each a `Distiller` of its own.

Where the losses come from. Each was held against numbers of the published comparison
(`tests/golden/data/baselines.npz`) and against torchdistill 1.1.5
(`tests/golden/test_torchdistill.py`):

    method  torchdistill's class  its numbers are the same               taken from
    at      ATLoss(mode="code")   yes, given two maps of one size        torchdistill
    pkt     PKTLoss               yes                                    torchdistill
    rkd     RKDLoss               yes                                    torchdistill
    vid     VIDLoss               yes; the regressors are ours           torchdistill
    crd     CRDLoss               yes, given the negatives; it cannot    ours
                                  draw them (reads `self.prob`, which
                                  nothing sets)
    kd      KDLoss                T^2 times less, where there is no      losses.py
                                  cross-entropy in it
    sp      SPKDLoss              no: rows over their sum of absolute    ours
                                  values, not over their length
    cc      CCKDLoss              no: the distance of kernel matrices,   ours
                                  as in its paper; the comparison has
                                  products of neighbours' differences
    hint    none: mean squared error                                     torch
    semckd, simkd, srrl: none                                            ours

Later than that comparison, each held against its formulae in numpy
(`tests/unit/distillation/test_terms.py`): dist, dkd, zkd and wttm compare logits, vkd
and cosine_hint standardised embeddings; `distillation/terms/` has a file for each.

torchdistill comes with the extra `bench`; only `torchdistill_losses.py` imports it.
"""
