import os

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

from lipsmooth import data
from lipsmooth.data import Images, cache_folder, evenly_spaced, load_dataset
from lipsmooth.sampling import sample_log


def write_image(path, size=(8, 9), mode="RGB", value=51):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 255)).save(path)


@pytest.fixture
def tree(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for name in ("ant", "bee"):
            for number in range(count):
                write_image(tmp_path / split / name / f"{number}.png")
    return tmp_path


class TestDigits:
    def test_the_parts_are_disjoint_and_complete(self):
        parts = {split: load_dataset("digits", split) for split in ("train", "test")}
        assert [len(part) for part in parts.values()] == [1347, 450]
        flat = [part.tensors()[0].flatten(1).numpy() for part in parts.values()]
        union = np.concatenate(flat)
        original = load_digits().data / 16
        ours, theirs = (a[np.lexsort(a.T)] for a in (union, original))
        np.testing.assert_array_equal(ours, theirs.astype(np.float32))

    def test_every_class_is_equally_often_in_the_test_part(self):
        shares = torch.bincount(load_dataset("digits", "test").labels)
        assert shares.min() >= 44
        assert shares.max() <= 46

    def test_items(self):
        test = load_dataset("digits", "test")
        x, y = test[3]
        assert (x.shape, x.dtype, type(y)) == ((1, 8, 8), torch.float32, int)
        assert test.shape == (1, 8, 8)
        assert test.classes == list("0123456789")
        pixels, labels = test.tensors()
        assert (pixels.min(), pixels.max()) == (0, 1)
        assert torch.equal(pixels[3], x)
        assert labels[3] == y
        assert torch.equal(test.tensors([7, 3])[0][1], x)
        with pytest.raises(IndexError, match="image 450 of 450"):
            test[450]


class TestFolders:
    def test_order_labels_and_pixels(self, tree):
        train = load_dataset(tree, "train")
        assert (len(train), train.classes) == (6, ["ant", "bee"])
        assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert train.shape == (3, 9, 8)
        x, y = train[4]
        assert y == 1
        assert x.shape == (3, 9, 8)
        np.testing.assert_allclose(x[:, 0, 0], [0.2, 0, 1], rtol=1e-6)
        assert len(load_dataset(tree, "test")) == 4
        assert train.tensors([])[0].shape == (0, 3, 9, 8)

    def test_grey_images_have_one_channel(self, tmp_path):
        for name in ("a", "b"):
            write_image(tmp_path / "test" / name / "0.png", mode="L")
        x, _ = load_dataset(tmp_path, "test")[0]
        assert x.shape == (1, 9, 8)
        assert x[0, 0, 0] == pytest.approx(0.2)

    def test_a_flat_tree_is_a_test_set_only(self, tree):
        assert len(load_dataset(tree / "test", "test")) == 4
        with pytest.raises(ValueError, match=r"no folder train/"):
            load_dataset(tree / "test", "train")

    def test_the_digest_follows_the_files(self, tree):
        before = load_dataset(tree, "test").digest()
        assert load_dataset(tree, "test").digest() == before
        write_image(tree / "test" / "bee" / "2.png")
        assert load_dataset(tree, "test").digest() != before

    def test_an_empty_class(self, tree):
        (tree / "train" / "wasp").mkdir()
        with pytest.raises(ValueError, match="wasp"):
            load_dataset(tree, "train")

    def test_no_classes(self, tmp_path):
        (tmp_path / "train").mkdir()
        with pytest.raises(ValueError, match=str(tmp_path / "train")):
            load_dataset(tmp_path, "train")

    def test_sizes_that_differ(self, tree):
        write_image(tree / "train" / "bee" / "9.png", size=(10, 9))
        with pytest.raises(ValueError, match=r"9\.png is 10×9 pixels.*8×9"):
            load_dataset(tree, "train")

    def test_a_file_that_is_no_image(self, tree):
        (tree / "train" / "bee" / "9.png").write_text("not a picture")
        with pytest.raises(ValueError, match=r"9\.png cannot be read"):
            load_dataset(tree, "train")


class TestSizes:
    """ImageNet as it is tested: scaled, cropped, whatever the size of the file."""

    @pytest.fixture
    def photographs(self, tmp_path):
        rng = np.random.default_rng(0)
        sizes = {"ant": [(70, 50), (40, 90)], "bee": [(33, 33), (400, 31)]}
        for name, shapes in sizes.items():
            (tmp_path / "val" / name).mkdir(parents=True)
            for number, (width, height) in enumerate(shapes):
                pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
                path = tmp_path / "val" / name / f"{number}.png"
                Image.fromarray(pixels).save(path)
        return tmp_path

    def test_pixels_are_those_of_torchvision(self, photographs):
        steps = Compose([Resize(32), CenterCrop(28), ToTensor()])
        reference = ImageFolder(photographs / "val", steps)
        ours = load_dataset(photographs, "test", size=28)
        assert ours.preparation == {"resize": 32, "crop": 28}
        assert (len(ours), ours.shape) == (4, (3, 28, 28))
        for number, (x, label) in enumerate(reference):
            assert torch.equal(ours[number][0], x)
            assert ours[number][1] == label
        assert load_dataset(photographs, "test", size=224).preparation["resize"] == 256

    def test_without_a_size_they_must_agree(self, photographs):
        with pytest.raises(ValueError, match="all must have one size"):
            load_dataset(photographs, "test")

    def test_grey_and_transparent_files_among_colours(self, photographs):
        for mode, name in (("L", "grey"), ("RGBA", "clear"), ("CMYK", "print")):
            kind = "tif" if mode == "CMYK" else "png"
            Image.new(mode, (60, 40)).save(
                photographs / "val" / "bee" / f"{name}.{kind}"
            )
        x, _ = load_dataset(photographs, "test", size=16).tensors()
        assert x.shape == (7, 3, 16, 16)

    def test_the_size_is_part_of_the_identity(self, tree):
        plain = load_dataset(tree, "test")
        sized = [load_dataset(tree, "test", size=size) for size in (8, 9, 8)]
        digests = [part.digest() for part in (plain, *sized)]
        assert digests[1] == digests[3]
        assert len(set(digests)) == 3

    def test_a_file_that_is_no_image_is_found_when_read(self, photographs):
        (photographs / "val" / "bee" / "9.png").write_text("not a picture")
        dataset = load_dataset(photographs, "test", size=16)
        assert dataset[0][0].shape == (3, 16, 16)
        with pytest.raises(ValueError, match=r"9\.png cannot be read"):
            dataset[4]

    def test_where_a_size_makes_no_sense(self, photographs):
        for name in ("digits", "cifar10"):
            with pytest.raises(ValueError, match=f"got 28 for {name}"):
                load_dataset(name, "test", size=28)
        with pytest.raises(ValueError, match="at least 8; got 7"):
            load_dataset(photographs, "test", size=7)

    def test_a_log_states_it(self, photographs, tmp_path):
        def score(x):
            return torch.stack([x[:, 0].mean(dim=(1, 2)), x[:, 1].mean(dim=(1, 2))], 1)

        configs = []
        for size in (16, None):
            folder = photographs
            if size is None:
                folder = tmp_path / "same"
                for name in ("ant", "bee"):
                    write_image(folder / "val" / name / "0.png", size=(16, 16))
            dataset = load_dataset(folder, "test", size=size)
            log = sample_log(
                score, dataset, tmp_path / f"{size}.jsonl", sigma=0.1, n0=2, n=4,
                seed=0, progress=False,
            )  # fmt: skip
            configs.append(log.config)
        assert configs[0]["preparation"] == {"resize": 18, "crop": 16}
        assert "preparation" not in configs[1]


class TestResident:
    def test_folders_are_decoded_once(self, tree, monkeypatch):
        lazy = load_dataset(tree, "train")
        resident = lazy.resident()
        assert type(resident) is Images
        assert resident.pixels.dtype == torch.uint8
        assert resident.digest() != lazy.digest()  # of pixels, not of files
        for rows in (None, [4, 0, 4]):
            for ours, theirs in zip(
                resident.tensors(rows), lazy.tensors(rows), strict=True
            ):
                assert torch.equal(ours, theirs)
        (tree / "train" / "ant" / "0.png").unlink()
        assert resident[0][0].shape == (3, 9, 8)
        with pytest.raises(ValueError, match="cannot be read"):
            lazy[0]

    def test_scaled_images_too(self, tree):
        lazy = load_dataset(tree, "train", size=8)
        assert torch.equal(lazy.resident().tensors()[0], lazy.tensors()[0])

    def test_what_is_too_large_stays_on_the_disk(self, tree, monkeypatch):
        lazy = load_dataset(tree, "train")
        monkeypatch.setattr(data, "RESIDENT_BYTES", 6 * 3 * 9 * 8 - 1)
        assert lazy.resident() is lazy
        monkeypatch.setattr(data, "RESIDENT_BYTES", 6 * 3 * 9 * 8)
        assert lazy.resident() is not lazy

    def test_digits_keep_their_pixels(self):
        digits = load_dataset("digits", "test")
        resident = digits.resident()
        assert torch.equal(resident.tensors()[0], digits.tensors()[0])
        assert resident.digest() == digits.digest()


class TestCifar10:
    def test_conversion(self, monkeypatch, tmp_path):
        class Stub:
            def __init__(self, root, train, download):
                assert (root, train, download) == (tmp_path, False, True)
                self.data = np.arange(2 * 32 * 32 * 3).reshape(2, 32, 32, 3) % 256
                self.data = self.data.astype(np.uint8)
                self.targets, self.classes = [1, 0], ["airplane", "automobile"]

        monkeypatch.setattr(data, "CIFAR10", Stub)
        test = load_dataset("cifar10", "test", root=tmp_path)
        x, y = test[0]
        assert (y, test.shape) == (1, (3, 32, 32))
        np.testing.assert_allclose(x[:, 0, 1], np.array([3, 4, 5]) / 255, rtol=1e-6)

    def test_a_damaged_download_is_an_os_error(self, monkeypatch, tmp_path):
        def damaged(*_, **__):
            raise RuntimeError("File not found or corrupted.")

        monkeypatch.setattr(data, "CIFAR10", damaged)
        with pytest.raises(OSError, match="corrupted"):
            load_dataset("cifar10", "train", root=tmp_path)

    @pytest.mark.skipif(
        "LIPSMOOTH_CIFAR10" not in os.environ,
        reason="LIPSMOOTH_CIFAR10 names no folder with CIFAR-10 as class folders",
    )
    def test_as_class_folders(self):
        test = load_dataset(os.environ["LIPSMOOTH_CIFAR10"], "test")
        assert (len(test), test.shape) == (10_000, (3, 32, 32))
        assert torch.bincount(test.labels).tolist() == [1000] * 10
        x, _ = test.tensors(np.arange(0, 10_000, 500))
        assert 0.3 < x.mean() < 0.6


def test_unknown_names():
    with pytest.raises(ValueError, match="'digitz'"):
        load_dataset("digitz", "test")
    with pytest.raises(ValueError, match="'validation'"):
        load_dataset("digits", "validation")


def test_evenly_spaced():
    assert evenly_spaced(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert evenly_spaced(7, 3).tolist() == [0, 2, 4]
    assert evenly_spaced(4, None).tolist() == [0, 1, 2, 3]
    for images in (0, 5, -1):
        with pytest.raises(ValueError, match=f"got {images}"):
            evenly_spaced(4, images)


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("LIPSMOOTH_CACHE", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    assert cache_folder(tmp_path / "b") == tmp_path / "b"
    monkeypatch.delenv("LIPSMOOTH_CACHE")
    assert cache_folder().name == "lipsmooth"
