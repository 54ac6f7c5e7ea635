"""Data: data sets, batches, augmentation. A map of the room:

| file                | what                                                                                    |
|---------------------|-----------------------------------------------------------------------------------------|
| `catalog`           | `load("fashion-mnist")`: find or fetch a data set; `describe()`                         |
| `sources`           | the known data sets: files, hashes, mirrors                                             |
| `download`, `formats` | fetching a file safely; reading gzip, IDX, tar, CIFAR records                         |
| `digits`            | the data set in the package                                                             |
| `image_files`       | images from files                                                                       |
| `preprocess`        | images as a network saw them in training: resize, crop, normalise                       |
| `array_dataset`     | images in memory, normalisation, fixed splits                                           |
| `batch_loader`      | the trainer's loader: whole batches, reproducible, prepared in the background           |
| `augment`           | augmentation of whole batches                                                           |
| `counter_random`    | random numbers that are a function of (seed, epoch, index)                              |
| `prefetch`          | background threads, in order                                                            |
| `dataset`, `sampler`, `collate`, `loader` | the interface of `torch.utils.data`                               |
"""

from minires.data.array_dataset import ArrayDataset, channel_statistics, normalize, split_validation
from minires.data.augment import Pipeline
from minires.data.batch_loader import Batch, BatchLoader
from minires.data.catalog import Description, describe, load, names
from minires.data.collate import default_collate, default_convert
from minires.data.dataset import (
    ChainDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    random_split,
)
from minires.data.image_files import image_folder, read_image
from minires.data.loader import DataLoader, get_worker_info
from minires.data.sampler import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

__all__ = [
    "ArrayDataset",
    "Batch",
    "BatchLoader",
    "BatchSampler",
    "ChainDataset",
    "ConcatDataset",
    "DataLoader",
    "Dataset",
    "Description",
    "IterableDataset",
    "Pipeline",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "Subset",
    "SubsetRandomSampler",
    "TensorDataset",
    "WeightedRandomSampler",
    "channel_statistics",
    "default_collate",
    "default_convert",
    "describe",
    "get_worker_info",
    "image_folder",
    "load",
    "names",
    "normalize",
    "random_split",
    "read_image",
    "split_validation",
]
