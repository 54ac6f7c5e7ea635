"""Images as a network saw them in training, in NumPy alone (Pillow only decodes files).

| file        | what                                                                                            |
|-------------|-------------------------------------------------------------------------------------------------|
| `decode`    | image files as pixels: rotation, transparency, palettes, 16 bits, damage, each decided           |
| `resize`    | Pillow's resize, equal bit for bit                                                              |
| `transform` | `ImageTransform`: resize, crop, normalise, by the roundings of each library                     |
| `configs`   | timm's, Hugging Face's and torchvision's descriptions of that, read                             |
| `for_model` | `transform_for(model)`: the right one for a model that `minires.load_model` read                |
"""

from minires.data.preprocess.configs import from_huggingface, from_timm, torchvision
from minires.data.preprocess.decode import EXTENSIONS, decode_image, find_images
from minires.data.preprocess.for_model import imagenet_class_names, transform_for
from minires.data.preprocess.resize import INTERPOLATIONS, resize
from minires.data.preprocess.transform import ImageTransform, Resize

__all__ = [
    "EXTENSIONS",
    "INTERPOLATIONS",
    "ImageTransform",
    "Resize",
    "decode_image",
    "find_images",
    "from_huggingface",
    "from_timm",
    "imagenet_class_names",
    "resize",
    "torchvision",
    "transform_for",
]
