"""Other libraries' progress bars and load reports, which would drown ours."""

import datasets
import transformers


def quiet_libraries() -> None:
    """Keep transformers and datasets from drawing bars and printing what we report ourselves; their errors remain."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
