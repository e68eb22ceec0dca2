"""The source ``tfds``: data that is prepared for TensorFlow Datasets."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from adapt_jax.tasks.sources.registry import SOURCES, SPLITS, Rows, SourceRequest
from adapt_jax.tasks.sources.rows import Row
from adapt_jax.utils.config import Strict, find_path, validate
from adapt_jax.utils.errors import UserError, nearest

__all__ = ["tfds"]


class Dataset(Strict):
    """A TensorFlow Datasets name and its splits in TFDS's own notation (``train[:80%]``)."""

    dataset: str
    data_dir: str | None = None
    split: str | None = None
    train: str | None = None
    development: str | None = None
    test: str | None = None


@SOURCES.register("tfds")
def tfds(request: SourceRequest) -> Rows:
    """A prepared TensorFlow Datasets builder, read through ``as_data_source``: no TensorFlow.

    Class labels become their names.

    Raises:
        UserError: an unknown dataset or split, one that is not prepared, or one that is prepared
            as TFRecord, which has no random access.
    """
    import tensorflow_datasets

    chosen = validate(Dataset, request.options, "source")
    named = {"all": chosen.split, **{split: getattr(chosen, split) for split in SPLITS}}
    named = {split: name for split, name in named.items() if name is not None}
    if not named or ("all" in named and len(named) > 1):
        raise UserError(f"source: expected either 'split' or some of {', '.join(SPLITS)}")
    data_dir = None if chosen.data_dir is None else find_path(chosen.data_dir, request.folder)
    where = f"tfds {chosen.dataset}"
    try:
        builder = tensorflow_datasets.builder(chosen.dataset, data_dir=data_dir)
    except tensorflow_datasets.core.DatasetNotFoundError:
        known = tensorflow_datasets.list_builders(with_community_datasets=False)
        hint = nearest(chosen.dataset, known)
        raise UserError(f"source.dataset: no TensorFlow dataset {chosen.dataset!r}{hint}") from None
    prepare = f"tfds build {chosen.dataset} --file_format=array_record"
    if not builder.is_prepared():
        raise UserError(f"{where}: not prepared in {builder.data_dir}; prepare it by `{prepare}`")
    labels = {
        name: feature.int2str
        for name, feature in builder.info.features.items()
        if isinstance(feature, tensorflow_datasets.features.ClassLabel)
    }
    rows: dict[str, Iterable[Row]] = {}
    for split, name in named.items():
        try:
            records = builder.as_data_source(split=name)
        except NotImplementedError:  # how tfds reports a dataset that it prepared as TFRecord
            raise UserError(f"{where}: prepared as TFRecord; prepare it by `{prepare}`") from None
        except (ValueError, KeyError) as error:
            has = ", ".join(builder.info.splits)
            raise UserError(f"{where}: no split {name!r} ({error}); it has: {has}") from None
        rows[split] = _iter_records(records, labels, f"{where}, split {name}")
    return rows


def _iter_records(
    records: Iterable[Mapping[str, Any]], labels: Mapping[str, Callable[[int], str]], where: str
) -> Iterator[Row]:
    for number, record in enumerate(records, start=1):
        values = {key: _name_class(labels, key, value) for key, value in record.items()}
        yield Row(f"{where}, record {number}", number, values)


def _name_class(labels: Mapping[str, Callable[[int], str]], key: str, value: Any) -> Any:
    """The name of a class label; -1 is how TFDS writes a missing one."""
    if key not in labels:
        return value
    return labels[key](value) if value >= 0 else None
