"""Context and progress tracking."""

# The text between the two lines is the guide's, to the letter.
# ruff: noqa
# fmt: off

from guide_app.services import load_dataset, process_data, save_results

# From the guide:

from fastedgy.queued_task import set_context, get_context

async def process_dataset(dataset_id: int):
    set_context("dataset.id", dataset_id)
    set_context("progress", 0)
    set_context("stage", "loading")

    # Load data
    data = load_dataset(dataset_id)
    set_context("progress", 25)

    # Process data
    set_context("stage", "processing")
    result = process_data(data)
    set_context("progress", 75)

    # Save results
    set_context("stage", "saving")
    save_results(result)
    set_context("progress", 100)

    return {"processed": True}

# End of the guide's text.
