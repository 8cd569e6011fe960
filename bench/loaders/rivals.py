"""The loaders that people use, each as its own documentation has it, with the same JPEGs, crops and numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm.data  # noqa: F401 - once, before the processes of loaders are forked
import torch
import torchvision.datasets
import torchvision.transforms.v2  # noqa: F401

from bench.loaders.data import AREA, BATCH, MEAN, RATIO, STD, Batches, Data, workers


class Rival:
    """Keeps what it has opened for a number of cores: workers and compiled code are not paid for at every epoch."""

    def __init__(self, data: Data) -> None:
        self.data, self.opened = data, dict[int, Any]()

    def write(self, folder: Path) -> None:
        """Write the JPEGs as files in class folders."""
        self.folder = folder
        self.data.as_files(folder)

    def epoch(self, cores: int) -> Batches:
        """One pass."""
        if cores not in self.opened:
            self.opened.clear()
            self.opened[cores] = self.open(cores)
        return self.batches(self.opened[cores])

    def open(self, cores: int) -> Any:
        """Return what is iterated over once per epoch."""
        raise NotImplementedError

    def batches(self, opened: Any) -> Iterator[torch.Tensor]:
        """Yield the images of every batch of an epoch."""
        for batch in opened:
            yield batch[0]

    def torch_loader(self, dataset: Any, cores: int, **options: Any) -> Any:
        """Return torch's DataLoader of a dataset."""
        count = workers(cores)
        return torch.utils.data.DataLoader(
            dataset, **({"batch_size": BATCH} | options), num_workers=count, persistent_workers=count > 0
        )


class Torchvision(Rival):
    """ImageFolder and DataLoader, decoding by torchvision.io."""

    def open(self, cores: int) -> Any:
        from torchvision.datasets import ImageFolder
        from torchvision.io import ImageReadMode, decode_jpeg, read_file

        images = ImageFolder(str(self.folder), self.data.transform,
                             loader=lambda path: decode_jpeg(read_file(path), ImageReadMode.RGB))  # fmt: skip
        return self.torch_loader(images, cores, shuffle=True)


class Timm(Rival):
    """timm's create_loader, with nothing random but crop and flip."""

    def open(self, cores: int) -> Any:
        from timm.data import create_dataset, create_loader

        return create_loader(
            create_dataset("", root=str(self.folder), is_training=True), input_size=(3, self.data.px, self.data.px),
            batch_size=BATCH, is_training=True, scale=AREA, ratio=RATIO, hflip=0.5, color_jitter=None, re_prob=0.0,
            interpolation="bilinear", mean=MEAN, std=STD, num_workers=workers(cores), use_prefetcher=False,
            persistent_workers=cores > 1, device=torch.device("cpu"),
        )  # fmt: skip

    def batches(self, opened: Any) -> Iterator[torch.Tensor]:
        opened.batch_sampler.drop_last = False  # timm leaves out the last, smaller batch
        yield from super().batches(opened)


class WebDataset(Rival):
    """Tar files, read in order, with a buffer of shuffled images."""

    def __init__(self, data: Data) -> None:
        import webdataset

        super().__init__(data)
        self.library = webdataset

    def write(self, folder: Path) -> None:
        self.folder = folder
        with self.library.ShardWriter(f"{folder}/%03d.tar", maxcount=-(-len(self.data.jpegs) // 4), verbose=0) as sink:
            for i, (jpeg, label) in enumerate(zip(self.data.jpegs, self.data.labels, strict=True)):
                sink.write({"__key__": f"{i:06d}", "jpg": jpeg, "cls": label})

    def open(self, cores: int) -> Any:
        shards = sorted(str(path) for path in self.folder.glob("*.tar"))
        dataset = self.library.WebDataset(shards, shardshuffle=len(shards)).shuffle(4 * BATCH).to_tuple("jpg", "cls")
        batched = dataset.map_tuple(self.data.prepare, int).batched(BATCH, partial=True)
        return self.torch_loader(batched, cores, batch_size=None)


def prepared(streaming: Any, data: Data) -> Any:
    """Return a library's StreamingDataset whose images are prepared as those of all others are."""

    class Images(streaming):  # type: ignore[misc]
        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            sample = super().__getitem__(index)
            return data.prepare(sample["image"]), sample["label"]

    return Images


class LitData(Rival):
    """Chunks of 64 MB and the StreamingDataLoader."""

    def __init__(self, data: Data) -> None:
        import litdata

        super().__init__(data)
        self.library = litdata

    def write(self, folder: Path) -> None:
        from litdata.streaming.cache import Cache

        self.folder, cache = folder, Cache(str(folder), chunk_bytes="64MB")
        for i, (jpeg, label) in enumerate(zip(self.data.jpegs, self.data.labels, strict=True)):
            cache[i] = {"image": jpeg, "label": label}
        cache.done()
        cache.merge()

    def open(self, cores: int) -> Any:
        count = workers(cores)
        dataset = prepared(self.library.StreamingDataset, self.data)(str(self.folder), shuffle=True, drop_last=False)
        return self.library.StreamingDataLoader(
            dataset, batch_size=BATCH, num_workers=count, persistent_workers=count > 0
        )


class MosaicStreaming(Rival):
    """MDS shards and DataLoader."""

    def __init__(self, data: Data) -> None:
        import streaming

        super().__init__(data)
        self.library = streaming
        streaming.base.util.clean_stale_shared_memory()

    def write(self, folder: Path) -> None:
        self.folder = folder
        with self.library.MDSWriter(out=str(folder), columns={"image": "bytes", "label": "int"}, exist_ok=True) as sink:
            for jpeg, label in zip(self.data.jpegs, self.data.labels, strict=True):
                sink.write({"image": jpeg, "label": label})

    def open(self, cores: int) -> Any:
        images = prepared(self.library.StreamingDataset, self.data)
        return self.torch_loader(images(local=str(self.folder), shuffle=True, batch_size=BATCH), cores)


class RayData(Rival):
    """Parquet of bytes, map_batches and iter_torch_batches, on a Ray of its own."""

    def write(self, folder: Path) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self.folder, count = folder, len(self.data.jpegs)
        for part in range(8):
            rows = slice(part * count // 8, (part + 1) * count // 8)
            table = pa.table({"image": self.data.jpegs[rows], "label": self.data.labels[rows]})
            parquet.write_table(table, folder / f"{part}.parquet", compression="none")

    def open(self, cores: int) -> Any:
        import ray

        ray.shutdown()
        ray.init(address="local", num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level="error")
        ray.data.DataContext.get_current().enable_progress_bars = False
        prepare = self.data.prepare

        def prepared(batch: dict[str, Any]) -> dict[str, Any]:
            return {"image": torch.stack([prepare(jpeg) for jpeg in batch["image"]]).numpy()}

        files = ray.data.read_parquet(str(self.folder), shuffle="files")
        return files.map_batches(prepared, batch_size=BATCH // 2)

    def batches(self, opened: Any) -> Iterator[torch.Tensor]:
        for batch in opened.iter_torch_batches(batch_size=BATCH, local_shuffle_buffer_size=2 * BATCH):
            yield batch["image"]


class Dali(Rival):
    """DALI's operators for CPUs, which decode no more of an image than the crop needs."""

    reads_ahead = True

    def __init__(self, data: Data) -> None:
        import nvidia.dali  # noqa: F401

        super().__init__(data)

    def open(self, cores: int) -> Any:
        from nvidia.dali import fn, pipeline_def, types
        from nvidia.dali.plugin.base_iterator import LastBatchPolicy
        from nvidia.dali.plugin.pytorch import DALIGenericIterator

        px = self.data.px

        @pipeline_def(batch_size=BATCH, num_threads=cores, device_id=None)
        def pipeline() -> Any:
            jpegs, labels = fn.readers.file(file_root=str(self.folder), random_shuffle=True, name="files")
            images = fn.decoders.image_random_crop(
                jpegs, device="cpu", output_type=types.RGB, random_area=AREA, random_aspect_ratio=RATIO
            )
            images = fn.resize(images, size=(px, px), interp_type=types.INTERP_LINEAR)
            scaled = {"mean": [255 * m for m in MEAN], "std": [255 * s for s in STD]}
            flipped = fn.random.coin_flip()
            shown = fn.crop_mirror_normalize(images, dtype=types.FLOAT, output_layout="CHW", mirror=flipped, **scaled)
            return shown, labels

        return DALIGenericIterator(
            pipeline(), ["image", "label"], reader_name="files", auto_reset=True,
            last_batch_policy=LastBatchPolicy.PARTIAL,
        )  # fmt: skip

    def batches(self, opened: Any) -> Iterator[torch.Tensor]:
        for (batch,) in opened:
            yield batch["image"]


class Ffcv(Rival):
    """One file of JPEGs, and pipelines compiled by numba."""

    def __init__(self, data: Data) -> None:
        import ffcv

        super().__init__(data)
        self.library = ffcv

    def write(self, folder: Path) -> None:
        import io

        from ffcv.fields import IntField, RGBImageField
        from ffcv.writer import DatasetWriter
        from PIL import Image

        jpegs, labels = self.data.jpegs, self.data.labels

        class Images:
            def __len__(self) -> int:
                return len(jpegs)

            def __getitem__(self, index: int) -> tuple[Any, int]:
                return Image.open(io.BytesIO(jpegs[index])).convert("RGB"), labels[index]

        self.folder = folder
        fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=95), "label": IntField()}
        small = 1 << 21  # bytes of a page, the fewest that it takes: of few images most of a page would be empty
        writer = DatasetWriter(str(folder / "images.beton"), fields, page_size=small, num_workers=1)
        writer.from_indexed_dataset(Images())

    def open(self, cores: int) -> Any:
        import numpy as np
        from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
        from ffcv.loader import Loader, OrderOption
        from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage

        mean, std = (255 * np.array(values, np.float32) for values in (MEAN, STD))
        px = self.data.px
        image = [
            RandomResizedCropRGBImageDecoder((px, px), scale=AREA, ratio=RATIO), RandomHorizontalFlip(),
            NormalizeImage(mean, std, np.float32), ToTensor(), ToTorchImage(),
        ]  # fmt: skip
        return Loader(
            str(self.folder / "images.beton"), batch_size=BATCH, num_workers=cores, order=OrderOption.RANDOM,
            drop_last=False, pipelines={"image": image, "label": [IntDecoder(), ToTensor()]},
        )  # fmt: skip
