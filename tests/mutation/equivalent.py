"""Mutants that change nothing to be seen: (file, function, the line that it becomes or is without), with the reason."""

DRAWN = "how wide a bar or how long a message is drawn, which is taste"
SUM = "x + added is added + x, bit for bit, and both are tuples of streams"
EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        "reuse/transformer_cuts.py",
        "_Exit.keep",
        "return _sum(self.kept(), before, single=not isinstance(output, tuple))",
    ): SUM,
    (
        "reuse/transformer_cuts.py",
        "_AddKept.forward",
        "return _sum(kept, self.entering(args, kwargs, len(kept)), single=len(kept) == 1)",
    ): SUM,
    (
        "quantization/search.py",
        "",
        "BLOCK = 2**16",
    ): "how many values are tried at a time, for speed; the score of a group is its own in every block",
    (
        "pipeline/progress.py",
        "_display",
        "columns = (SpinnerColumn(), name, BarColumn(bar_width=25), state, TimeElapsedColumn())",
    ): DRAWN,
    (
        "metrics/weights.py",
        "missing",
        'why = " ".join(str(error).split())[:161] or type(error).__name__',
    ): DRAWN,
    (
        "cost/operators.py",
        "Products.__init__",
        "without super().__init__()",
    ): "torch makes what its mode needs when the mode is entered, too",
    (
        "pipeline/several.py",
        "_begun",
        "without theirs.close()",
    ): "the other end of a connection is closed where the function that holds it returns",
    (
        "metrics/ssim.py",
        "StructuralSimilarity.measure",
        "sigma = self._sigma(min(images.shape[(2):]))",
    ): "of images NCHW the last two sizes are all from the third on",
    (
        "reuse/mixing.py",
        "Mixing._raw",
        '"off": lambda: 2.0,',
    ): "weights above 1 are 1",
    (
        "correction/estimation.py",
        "Estimator.__init__",
        "self._place = (-2, 0)",
    ): "a step that is none, whichever",
    (
        "quantization/search.py",
        "_scored",
        "if (candidates >= 1):",
    ): "of one candidate, one repetition is a copy, which the condition saves",
}
