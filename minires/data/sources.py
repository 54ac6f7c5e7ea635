"""Where the data sets are, and how each file is recognised.

What is hashed is always what is *inside*: the decompressed IDX file, the member of an archive. The same bytes come in
different gzip files (Debian's package compresses Fashion-MNIST its own way), and only what is inside is used.

Where the hashes come from. Fashion-MNIST: computed from Debian's package; other projects publish the same sums. MNIST:
sums that several independent projects publish for these files; not computed here. CIFAR: the members' sums as one
project publishes them, beside an archive sum that many agree on; not computed here. If a publisher's file and a sum
below ever disagree, loading fails loudly and names both.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class File:
    """One file of a data set: its name, the size in bytes and the SHA-256 of its (decompressed) content."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """One data set.

    Attributes:
        kind: "idx" (four gzip files) or "cifar" (an archive, or its extracted folder).
        folders: below a data root, where its files may lie; the first is where a download goes.
        train, test: idx: (images, labels); cifar: the batches.
        archive, inside: cifar: the archive's name, and the folder in it.
        label_bytes: cifar: labels before each image, of which the last counts.
        mirrors: bases of urls, tried in this order.
        download_bytes: about how much a download takes.
    """

    name: str
    title: str
    kind: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    counts: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    licence: str
    folders: tuple[str, ...]
    train: tuple[File, ...]
    test: tuple[File, ...]
    mirrors: tuple[str, ...]
    download_bytes: int
    aliases: tuple[str, ...] = ()
    archive: str = ""
    inside: str = ""
    label_bytes: int = 1
    hints: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[File, ...]:
        return self.train + self.test


def _idx_files(hashes: tuple[str, str, str, str]) -> tuple[tuple[File, ...], tuple[File, ...]]:
    """The four files of MNIST and of the sets made in its form."""
    sizes = (16 + 60_000 * 784, 8 + 60_000, 16 + 10_000 * 784, 8 + 10_000)
    names = (f"{part}-{what}-ubyte.gz" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))
    files = tuple(File(*row) for row in zip(names, sizes, hashes, strict=True))
    return files[:2], files[2:]


_MNIST = _idx_files(
    (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    )
)
_FASHION = _idx_files(
    (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    )
)
_CIFAR10 = tuple(
    File(f"{name}.bin", 10_000 * 3073, sha256)
    for name, sha256 in (
        ("data_batch_1", "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
        ("data_batch_2", "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
        ("data_batch_3", "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
        ("data_batch_4", "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
        ("data_batch_5", "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
        ("test_batch", "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
    )
)
_CIFAR100 = (
    File("train.bin", 50_000 * 3074, "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29"),
    File("test.bin", 10_000 * 3074, "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a"),
)
_CIFAR100_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
    lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal
    shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
    telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_CIFAR_LICENCE = "none stated; cite Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images"

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            name="mnist",
            title="MNIST handwritten digits",
            kind="idx",
            classes=tuple("0123456789"),
            image_shape=(1, 28, 28),
            counts=(60_000, 10_000),
            mean=(0.1307,),
            std=(0.3081,),
            licence="none stated by its authors (LeCun, Cortes, Burges)",
            folders=("mnist", "MNIST/raw"),
            train=_MNIST[0],
            test=_MNIST[1],
            mirrors=(
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
            ),
            download_bytes=11_600_000,
        ),
        Source(
            name="fashion-mnist",
            title="Fashion-MNIST: articles of clothing",
            kind="idx",
            classes=(
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ),
            image_shape=(1, 28, 28),
            counts=(60_000, 10_000),
            mean=(0.2860,),
            std=(0.3530,),
            licence="MIT, Copyright 2017 Zalando SE",
            folders=("fashion-mnist", "FashionMNIST/raw"),
            train=_FASHION[0],
            test=_FASHION[1],
            mirrors=(
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
            ),
            download_bytes=30_900_000,
            aliases=("fashionmnist", "fmnist", "fashion"),
            hints=("on Debian and Ubuntu: apt-get install dataset-fashion-mnist",),
        ),
        Source(
            name="cifar10",
            title="CIFAR-10: small photographs",
            kind="cifar",
            classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
            image_shape=(3, 32, 32),
            counts=(50_000, 10_000),
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            licence=_CIFAR_LICENCE,
            folders=("cifar10", "cifar-10"),
            train=_CIFAR10[:5],
            test=_CIFAR10[5:],
            mirrors=(
                "https://www.cs.toronto.edu/~kriz/",
                "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
            ),
            download_bytes=170_052_171,
            aliases=("cifar-10",),
            archive="cifar-10-binary.tar.gz",
            inside="cifar-10-batches-bin",
        ),
        Source(
            name="cifar100",
            title="CIFAR-100: small photographs of 100 kinds",
            kind="cifar",
            classes=tuple(_CIFAR100_CLASSES.split()),
            image_shape=(3, 32, 32),
            counts=(50_000, 10_000),
            mean=(0.5071, 0.4865, 0.4409),
            std=(0.2673, 0.2564, 0.2762),
            licence=_CIFAR_LICENCE,
            folders=("cifar100", "cifar-100"),
            train=_CIFAR100[:1],
            test=_CIFAR100[1:],
            mirrors=("https://www.cs.toronto.edu/~kriz/",),
            download_bytes=168_513_733,
            aliases=("cifar-100",),
            archive="cifar-100-binary.tar.gz",
            inside="cifar-100-binary",
            label_bytes=2,
        ),
    )
}
