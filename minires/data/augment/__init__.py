"""Augmentation of whole batches.

| text                                                    | what it does                                             |
|---------------------------------------------------------|----------------------------------------------------------|
| `pad_crop:padding=4,mode=zeros`                         | pad, then crop at a random place                         |
| `translate:pixels=2`                                    | move by whole pixels                                     |
| `flip:p=0.5`                                            | mirror left and right                                    |
| `alternating_flip`                                      | mirror in every other epoch                              |
| `cutout:size=8`                                         | paint over a square                                      |
| `random_erasing:p=0.5,low=0.02,high=0.33,ratio=0.3,value=mean` | paint over a random rectangle                     |
| `random_resized_crop:low=0.08,ratio=0.75`               | a window of random area and shape, brought to full size  |
| `shrink:pixels=14,epochs=4`                             | smaller images in the first epochs                       |
| `color_jitter:brightness=0.4,contrast=0.4,saturation=0.4` | blend with black, the mean grey, the own grey          |
| `mixup:alpha=0.2,p=1.0`                                 | average with another sample, labels too                  |
| `cutmix:alpha=1.0,p=1.0`                                | a rectangle of another sample, labels by area            |

Options may be given by place (`"pad_crop:4"`) or by name; those left out have the values above.
"""

from minires.data.augment.color import ColorJitter, adjust_brightness, adjust_contrast, adjust_saturation, grey
from minires.data.augment.erase import Cutout, RandomErasing
from minires.data.augment.geometry import AlternatingFlip, Flip, PadCrop, Translate, crop, horizontal_flip
from minires.data.augment.mix import CutMix, Mixup, one_hot
from minires.data.augment.pipeline import Pipeline
from minires.data.augment.resample import RandomResizedCrop, Shrink, resample, resampling_matrix
from minires.data.augment.step import ImageStep, MixStep, Step, known_steps, parse_step

__all__ = [
    "AlternatingFlip",
    "ColorJitter",
    "CutMix",
    "Cutout",
    "Flip",
    "ImageStep",
    "MixStep",
    "Mixup",
    "PadCrop",
    "Pipeline",
    "RandomErasing",
    "RandomResizedCrop",
    "Shrink",
    "Step",
    "Translate",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_saturation",
    "crop",
    "grey",
    "horizontal_flip",
    "known_steps",
    "one_hot",
    "parse_step",
    "resample",
    "resampling_matrix",
]
