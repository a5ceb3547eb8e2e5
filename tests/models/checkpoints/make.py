"""Write the files beside this script, with Lightning, fastai and MONAI themselves.

    pip install lightning fastai monai && python tests/models/checkpoints/make.py

All hold the same trained network, `tiny_nets:make` of width 4 for 3 classes in grey: logits.json
has its answers, as plain PyTorch gives them, to the images that `images` draws. What these
libraries write in other versions is checked by running this into an empty folder and the test
(tests/models/test_checkpoints.py) after it.
"""

import json
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "nets"))
from checkpoint_nets import CLASSES, SIDE, images  # noqa: E402
from tiny_nets import make  # noqa: E402


def batches(count: int = 4) -> DataLoader:
    generator = torch.Generator().manual_seed(6)
    pixels = torch.rand(8 * count, 1, SIDE, SIDE, generator=generator)
    labels = torch.randint(0, CLASSES, (8 * count,), generator=generator)
    return DataLoader(TensorDataset((pixels - 0.5) / 0.25, labels), batch_size=8)


def trained() -> nn.Module:
    """A network whose batch norms have seen images."""
    torch.manual_seed(0)
    network = make(CLASSES, 1, width=4)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for pixels, labels in batches():
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(pixels), labels).backward()
        optimizer.step()
    return network.eval()


def again(network: nn.Module) -> nn.Module:
    """Its own copy, for libraries train in place; what they write is put back to the original."""
    other = make(CLASSES, 1, width=4)
    other.load_state_dict(network.state_dict())
    return other


def write_lightning(network: nn.Module, out: Path) -> None:
    import lightning
    import torchmetrics
    from lightning.pytorch.callbacks import WeightAveraging

    class Lit(lightning.LightningModule):
        def __init__(self, lr: float = 0.0, folder: Path = Path("a/b")) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.model = again(network)
            self.criterion = nn.CrossEntropyLoss(weight=torch.ones(CLASSES))
            self.train_acc = torchmetrics.Accuracy("multiclass", num_classes=CLASSES)
            self.train_acc.persistent(True)

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            logits = self.model(batch[0])
            self.train_acc(logits, batch[1])
            return self.criterion(logits, batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)

        def on_train_end(self) -> None:
            self.model.load_state_dict(network.state_dict())

    def fit(module: lightning.LightningModule, name: str, callbacks: list) -> None:
        with tempfile.TemporaryDirectory() as folder:
            trainer = lightning.Trainer(
                max_epochs=1, default_root_dir=folder, accelerator="cpu", logger=False,
                enable_progress_bar=False, callbacks=callbacks, enable_model_summary=False,
            )  # fmt: skip
            trainer.fit(module, batches())
            module.model.load_state_dict(network.state_dict())
            trainer.save_checkpoint(out / name)

    fit(Lit(), "lightning.ckpt", [])
    # the average in "state_dict", what was trained on in "current_model_state"
    fit(Lit(lr=0.1), "lightning_average.ckpt", [WeightAveraging()])
    module = Lit()
    module.model = torch.compile(module.model)
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(default_root_dir=folder, accelerator="cpu", logger=False)
        trainer.strategy.connect(module)
        trainer.save_checkpoint(out / "lightning_compiled.ckpt", weights_only=True)


def pixels_of(row: int) -> Tensor:
    return batches().dataset.tensors[0][row]


def label_of(row: int) -> Tensor:
    return batches().dataset.tensors[1][row]


def write_fastai(network: nn.Module, out: Path) -> None:
    from fastai.data.core import Datasets
    from fastai.learner import Learner
    from fastai.metrics import accuracy

    rows = len(batches().dataset)
    loaders = Datasets(range(rows), [[pixels_of], [label_of]]).dataloaders(bs=8, num_workers=0)
    learn = Learner(loaders, again(network), loss_func=nn.CrossEntropyLoss(), metrics=accuracy,
                    path=out, model_dir=".")  # fmt: skip
    with learn.no_logging():
        learn.fit(1, 1e-3)
    learn.model.load_state_dict(network.state_dict())
    learn.save("fastai")
    learn.save("fastai_weights", with_opt=False)
    learn.export("fastai_export.pkl")


def write_monai(network: nn.Module, out: Path) -> None:
    from monai.engines import SupervisedTrainer
    from monai.handlers import CheckpointSaver

    data = [{"image": x, "label": y} for x, y in batches().dataset]
    for name, extra in (("bundle/models", False), ("monai", True)):
        model = again(network)
        for norm in (part for part in model.modules() if isinstance(part, nn.BatchNorm2d)):
            norm.momentum = 0.0  # with a rate of 0 nothing changes
        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        saved = {"net": model, "opt": optimizer} if extra else {"net": model}
        file = "monai.pt" if extra else "model.pt"
        folder = out if extra else out / name
        trainer = SupervisedTrainer(
            device=torch.device("cpu"), max_epochs=1, train_data_loader=DataLoader(data, 8),
            network=model, optimizer=optimizer, loss_function=nn.CrossEntropyLoss(),
            train_handlers=[CheckpointSaver(folder, saved, save_final=True, final_filename=file)],
        )  # fmt: skip
        trainer.run()
    (out / "bundle/configs").mkdir(parents=True, exist_ok=True)
    config = {"network_def": {"_target_": "tiny_nets.make"}}
    (out / "bundle/configs/inference.json").write_text(json.dumps(config) + "\n")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    where = Path(sys.argv[1]) if sys.argv[1:] else HERE
    net = trained()
    write_lightning(net, where)
    write_fastai(net, where)
    write_monai(net, where)
    with torch.inference_mode():
        logits = net((images() / 255 - 0.5) / 0.25)
    (where / "logits.json").write_text(json.dumps(logits.tolist()) + "\n")
