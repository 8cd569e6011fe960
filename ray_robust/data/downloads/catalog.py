"""The table of data sets that `ray_robust.ingest NAME --download` can obtain: addresses, sizes, checksums, terms.

Each fact has its source beside it. `sha256 as tensorflow_datasets has it` is that package's checksums.tsv or
url_checksums/*.txt, which list size and SHA-256 of every file. fastai's checks.txt has sizes; its MD5 sums are of the
first MiB alone and are not used. Where no source has a checksum, none stands here and the user is told.
"""

from __future__ import annotations

from ray_robust.data.downloads.entries import HUB, DataSet, RemoteFile
from ray_robust.data.sources.imagenet import LICENCE as IMAGENET_TERMS
from ray_robust.data.sources.imagenet import OBTAIN as IMAGENET
from ray_robust.data.sources.inaturalist import LICENCE as INATURALIST_TERMS
from ray_robust.data.sources.inaturalist import RELEASES
from ray_robust.data.tasks.domains import DomainNet, Pacs
from ray_robust.data.tasks.official import DATASETS as WILDS
from ray_robust.data.tasks.official import IWILDCAM

_CIFAR = "https://www.cs.toronto.edu/~kriz/"
_FASTAI = "https://s3.amazonaws.com/fast-ai-imageclas/"
_INAT = "https://ml-inat-competition-datasets.s3.amazonaws.com/2021/"
_DOMAINNET = ("https://csr.bu.edu/ftp/visda/2019/multi-source/", "http://csr.bu.edu/ftp/visda/2019/multi-source/")
_CODALAB = "https://worksheets.codalab.org/rest/bundles/{}/contents/blob/"
_WILDS_CITE = "Koh et al., WILDS: A Benchmark of in-the-Wild Distribution Shifts, ICML 2021; and "
_NOT_UP = "the official server did not answer from April to August 2026 (wilds issues 174, 175)"


def _wilds(name: str, file: RemoteFile, cite: str, note: str = "") -> DataSet:
    """Return the entry of a data set of the wilds package, which reads `<root>/<name>_v<version>`."""
    official = WILDS[name]
    return DataSet(
        title=f"{name} of WILDS, version {official.version}",
        licence=official.licence,
        cite=_WILDS_CITE + cite,
        folder=f"wilds/{name}_v{official.version}",
        files=(file,),
        use=(f"task: {{name: 'wilds:{name}', root: ABOVE}}",),
        task=f"wilds:{name}",
        note=note,
    )


def _codalab(name: str, bundle: str, about: int) -> RemoteFile:
    """Return the archive of a bundle. Its address and rough size are those of `download_url` and `compressed_size` in
    the wilds package, 2.0.0; it publishes no checksum, and iwildcam's number is 4,559 bytes off the real size."""
    return RemoteFile(f"{name}.tar.gz", (_CODALAB.format(bundle),), about=about)


def _in_place(source: str) -> tuple[str, str]:
    """Return the lines of a spec that pre-trains on a source."""
    return "pretrain:", f"  sources: {{{source}: {{root: ROOT}}}}"


def _imagenet_subset(source: str, title: str, file: str, size: int, sha256: str) -> DataSet:
    return DataSet(
        title=title,
        licence=f"{IMAGENET_TERMS}; the selection Apache-2.0 (fastai)",
        cite="Howard, Imagenette, github.com/fastai/imagenette; Russakovsky et al., IJCV 2015",
        folder=file.removesuffix(".tgz"),
        files=(RemoteFile(file, (_FASTAI + file,), size, sha256),),
        use=_in_place(source),
    )


def _domainnet() -> tuple[RemoteFile, ...]:
    """Return six archives and twelve lists. Size and sha256 as tensorflow_datasets has them
    (image_classification/domainnet/checksums.tsv); ai.bu.edu/M3SDA names `groundtruth/` the cleaned version."""
    images = {
        "groundtruth/clipart.zip": (
            1_270_909_081, "f8f248a3e8bbc9868c523ae24e6601b4c2ad102afc60c0efeb4f3255df22354d"),
        "groundtruth/painting.zip": (
            3_679_366_174, "fa47e6d405503ea0286cabd767f176bd30e988b63ddd7b9db16cf030c9770015"),
        "infograph.zip": (4_338_659_804, "891e14f476317e97b6f06d6498c11d0a5b8d0c8b57210765ed9beb072da611fa"),
        "quickdraw.zip": (459_920_701, "9f37df2a8c3733703dbb35ad9964202a65f675ca30137756457537536b485d84"),
        "real.zip": (6_062_039_589, "d7fe010b430c5b510f85d657d38c4a1924822695fabea4fef57bd00dba251d63"),
        "sketch.zip": (2_633_992_926, "23a7dbae7016b343e934399beaa8a68728fb5e570ebe2c71df9b75cf91c499fc"),
    }  # fmt: skip
    lists = {
        "clipart_test.txt": (628_917, "62c8e36aaba1c41ad9e249099739707220a44c08f167b37ef420f34a31628a6b"),
        "clipart_train.txt": (1_443_819, "affdadf5f95a7583e6b98030a3d35007e2613ee4dd942393c5a705ec2b429312"),
        "infograph_test.txt": (728_028, "413cfa54ac92e7e6b242f4f09fbd9c8ace85c4deaf3cb6c81ff6b68264460136"),
        "infograph_train.txt": (1_683_098, "36b44cbd41a2915e0dc73b4f4be8862a6f3c220f93c8d63fb2439beeae3aefda"),
        "painting_test.txt": (971_888, "11472b13b5188e09f06918b12eebb660588c97a20e43e268d9b02e3e37eb8f97"),
        "painting_train.txt": (2_241_901, "f1da38d50a702fddf1329f85bc607d7a2abcae7e6aec75e1fd49cc1bd340d47b"),
        "quickdraw_test.txt": (2_213_400, "2a00a60650a453c65c356da748fec54084a197272137c440e7d52d08947357bf"),
        "quickdraw_train.txt": (5_164_600, "3a5edd3bc215772010eebc87f158707703dd7e48091d13b816af81326a9d1c0f"),
        "real_test.txt": (1_911_327, "2b3f75bcde309aeb5931292084b2162e936b5f189e3bb1ad716f0f74c460864c"),
        "real_train.txt": (4_440_944, "19d483256d24aef19e581b65eda8333fd918aef3eb733fe499ff384120e3a289"),
        "sketch_test.txt": (850_581, "3fb48fca18c507c4321f007c3f62b308ec232ff6928cbfe2af64e76ec366e840"),
        "sketch_train.txt": (1_960_222, "72f4bc6afa5702a1ccba800d0053c1427de87439dfaf246dbc9a2e71abfec54f"),
    }
    archives = (RemoteFile(p.rpartition("/")[2], tuple(m + p for m in _DOMAINNET), *f) for p, f in images.items())
    texts = (
        RemoteFile(n, tuple(f"{m}domainnet/txt/{n}" for m in _DOMAINNET), *f, unpack=False) for n, f in lists.items()
    )
    return (*texts, *archives)  # the small ones first: a server that is away is noticed at once


def _inaturalist(version: str, part: str, images: tuple[int, str], listing: tuple[int, str]) -> DataSet:
    """Return the images and the JSON of 2021 or of its `mini` part. Size and sha256 as tensorflow_datasets has them
    (image_classification/i_naturalist2021/checksums.tsv); github.com/visipedia/inat_comp and torchvision publish MD5
    sums of the same addresses."""
    names = (f"{part}.json.tar.gz", f"{part}.tar.gz")
    return DataSet(
        title=f"iNaturalist {version}, training images",
        licence=INATURALIST_TERMS,
        cite="Van Horn et al., Benchmarking Representation Learning for Natural World Image Collections, CVPR 2021",
        folder="inaturalist",
        files=tuple(RemoteFile(n, (_INAT + n,), *f) for n, f in zip(names, (listing, images), strict=True)),
        use=("pretrain:", f"  sources: {{inaturalist: {{root: ROOT, version: {version}}}}}"),
    )


DOWNLOADS = {
    "tiny-imagenet": DataSet(
        title="Tiny-ImageNet: 100,000 photographs of 200 WordNet ids, 64 px",
        licence=IMAGENET_TERMS,
        cite="Le and Yang, Tiny ImageNet Visual Recognition Challenge, CS 231N 2015; Russakovsky et al., IJCV 2015",
        folder="tiny-imagenet-200",
        files=(
            # size and sha256 are what many public repositories record of it, with the MD5
            # 90528d7ca1a48142e341f4ef8d21d0de that avalanche-lib's TinyImagenet has; Stanford publishes none
            RemoteFile(
                "tiny-imagenet-200.zip",
                (
                    "https://cs231n.stanford.edu/tiny-imagenet-200.zip",
                    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                ),
                248_100_043,
                "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
            ),
        ),
        use=_in_place("tiny-imagenet"),
        unpacked=500_000_000,  # 475 MiB: 120,000 small files take more room than their bytes
    ),
    # The binary versions, which need least to be read; the sources read the python ones as well. Size and sha256 as
    # tensorflow_datasets has them (url_checksums/cifar10.txt, cifar100.txt); MD5 sums are on
    # www.cs.toronto.edu/~kriz/cifar.html.
    "cifar-10": DataSet(
        title="CIFAR-10, binary version: 60,000 photographs of 10 classes, 32 px",
        licence="no licence stated by its makers; they ask to be cited",
        cite="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
        folder="cifar-10-batches-bin",
        files=(
            RemoteFile(
                "cifar-10-binary.tar.gz",
                (f"{_CIFAR}cifar-10-binary.tar.gz",),
                170_052_171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        ),
        use=_in_place("cifar-10"),
        unpacked=185_000_000,
    ),
    "cifar-100": DataSet(
        title="CIFAR-100, binary version: 60,000 photographs of 100 classes in 20 superclasses, 32 px",
        licence="no licence stated by its makers; they ask to be cited",
        cite="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
        folder="cifar-100-binary",
        files=(
            RemoteFile(
                "cifar-100-binary.tar.gz",
                (f"{_CIFAR}cifar-100-binary.tar.gz",),
                168_513_733,
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ),
        ),
        use=_in_place("cifar-100"),
        unpacked=185_000_000,
    ),
    # Sizes as fastai's checks.txt has them at its newest; sha256 as the Julia package FastAI.jl has them
    # (src/datasets/registry). tensorflow_datasets has those of an earlier upload under the same names.
    "imagenette": _imagenet_subset(
        "imagenette",
        "Imagenette 2, 160 px: 13,394 photographs of 10 ImageNet classes",
        "imagenette2-160.tgz",
        99_003_388,
        "64d0c4859f35a461889e0147755a999a48b49bf38a7e0f9bd27003f10db02fe5",
    ),
    "imagenette:320": _imagenet_subset(
        "imagenette",
        "Imagenette 2, 320 px",
        "imagenette2-320.tgz",
        341_663_724,
        "569b4497c98db6dd29f335d1f109cf315fe127053cedf69010d047f0188e158c",
    ),
    "imagewoof": _imagenet_subset(
        "imagewoof",
        "Imagewoof 2, 160 px: 12,954 photographs of 10 breeds of dogs",
        "imagewoof2-160.tgz",
        92_612_825,
        "b5ffa16037e07f60882434f55b7814a3d44483f2a484129f251604bc0d0f8172",
    ),
    "imagewoof:320": _imagenet_subset(
        "imagewoof",
        "Imagewoof 2, 320 px",
        "imagewoof2-320.tgz",
        328_387_740,
        "7db6120fdb9ae079e26346f89e7b00d7f184f8137791609b97fd0405d3f92305",
    ),
    "inaturalist:2021-mini": _inaturalist(
        "2021-mini",
        "train_mini",
        (44_636_137_542, "faedb949568676e35cc0088b78090a761ab29e30f53edaa65dcad87940fdc7b5"),
        (46_769_466, "7dffc85ec942b603f828229b20cf89c72072310a29954c74997d107d764c2789"),
    ),
    "inaturalist:2021": _inaturalist(
        "2021",
        "train",
        (239_909_164_970, "5a9093b2174ac08538435d79f3c6fa4b5d40c72a49b7d9a7b24b5e48f9e4f5d9"),
        (230_885_383, "96d5f2e5c558c851e1101d8534d5ffaa553cdabd6b2c4c721b323f1be8a61b94"),
    ),
    "inaturalist:2017": DataSet(
        title="iNaturalist 2017",
        licence=INATURALIST_TERMS,
        cite="Van Horn et al., The iNaturalist Species Classification and Detection Dataset, CVPR 2018",
        folder="inaturalist",
        files=(),
        by_hand=RELEASES["2017"].obtain,
    ),
    "domainnet": DataSet(
        title="DomainNet, cleaned version: 586,575 images of 345 classes in six domains",
        licence=DomainNet.licence,
        cite="Peng et al., Moment Matching for Multi-Source Domain Adaptation, ICCV 2019",
        folder="domainnet",
        files=_domainnet(),
        use=("task: {name: domainnet, root: ROOT, train: [real], ood: [sketch, clipart]}",),
    ),
    "pacs": DataSet(
        title="PACS: 9,991 images of 7 classes in four domains",
        licence=Pacs.licence,
        cite="Li et al., Deeper, Broader and Artier Domain Generalization, ICCV 2017",
        folder="pacs",
        files=(
            # The makers' copy is a Google Drive folder that needs an account. This commit of a public repository has
            # exactly their numbers of images, 191,397,087 bytes in all; GitHub packs it on request, so neither size nor
            # checksum of the archive is published
            RemoteFile(
                "pacs.tar.gz",
                (
                    "https://codeload.github.com/MachineLearning2020/Homework3-PACS/tar.gz/"
                    "d586a6cf3db84896fb6cc465c7bf51bdaf6d65d8",
                ),
                about=191_397_087,
                top="Homework3-PACS-d586a6cf3db84896fb6cc465c7bf51bdaf6d65d8",
            ),
        ),
        use=("task: {name: pacs, root: ROOT, train: [photo], ood: [sketch, cartoon]}",),
        holds={f"PACS/{domain}": images for domain, images in Pacs.sizes.items()},
        note="a copy of the images in a public repository of others, not by their makers",
    ),
    "office-home": DataSet(
        title="Office-Home: about 15,500 images of 65 classes in four domains",
        licence="for non-commercial research and education, by the notice of its makers",
        cite="Venkateswara et al., Deep Hashing Network for Unsupervised Domain Adaptation, CVPR 2017",
        folder="office-home",
        # the MD5 is what five public loaders of it have, e.g. those of the packages `ddg` and `imcls`
        files=(
            RemoteFile(
                "OfficeHomeDataset_10072016.zip",
                md5="b1c14819770c4448fd5b6d931031c91c",
                top="OfficeHomeDataset_10072016",
            ),
        ),
        use=("task: {name: domains, root: ROOT, train: [Product], ood: [Art, Clipart]}",),
        by_hand="its link (www.hemanthdv.org/officeHomeDataset.html) is a page of Google Drive for people",
    ),
    "imagenet": DataSet(
        title="ImageNet (ILSVRC2012)",
        licence=IMAGENET_TERMS,
        cite="Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015",
        folder="imagenet",
        files=(),
        by_hand=IMAGENET,
    ),
    "wilds:iwildcam": _wilds(
        "iwildcam",
        # the mirror, size and sha256: `official.IWILDCAM`. The bundle at CodaLab was another packing of 11,957,420,032
        # bytes without a checksum; the splits are compared either way
        RemoteFile("iwildcam.tar.gz", (f"{HUB}emmilly/iwildcam-wilds-v2",), IWILDCAM.size, IWILDCAM.sha256),
        "Beery et al., The iWildCam 2020 Competition Dataset, arXiv 2004.10340",
        f"one person's copy on the Hugging Face hub, pinned by its sha256; {_NOT_UP}",
    ),
    "wilds:camelyon17": _wilds(
        "camelyon17",
        _codalab("camelyon17", "0xe45e15f39fb54e9d9e919556af67aabe", 10_658_709_504),
        "Bandi et al., From Detection of Individual Metastases to Classification of Lymph Node Status, IEEE TMI 2018",
        _NOT_UP,
    ),
    "wilds:fmow": _wilds(
        "fmow",
        _codalab("fmow", "0xaec91eb7c9d548ebb15e1b5e60f966ab", 53_893_324_800),
        "Christie et al., Functional Map of the World, CVPR 2018",
        _NOT_UP,
    ),
    "wilds:rxrx1": _wilds(
        "rxrx1",
        _codalab("rxrx1", "0x6b7a05a3056a434498f0bb1252eb8440", 7_413_123_845),
        "Taylor et al., RxRx1: An Image Set for Cellular Morphological Variation, ICLR AI for Social Good 2019",
        _NOT_UP,
    ),
    "wilds:waterbirds": _wilds(
        "waterbirds",
        # the first address: github.com/kohpangwei/group_DRO, whose authors made the data set
        RemoteFile(
            "waterbirds.tar.gz",
            (
                "https://nlp.stanford.edu/data/dro/waterbird_complete95_forest2water2.tar.gz",
                _CODALAB.format("0x505056d5cdea4e4eaa0e242cbfe2daa4"),
            ),
            top="waterbird_complete95_forest2water2",
        ),
        "Sagawa et al., Distributionally Robust Neural Networks for Group Shifts, ICLR 2020",
    ),
    "wilds:celebA": _wilds(
        "celebA",
        _codalab("celebA", "0xfe55077f5cd541f985ebf9ec50473293", 1_308_557_312),
        "Liu et al., Deep Learning Face Attributes in the Wild, ICCV 2015",
        _NOT_UP,
    ),
}
