"""What the two public checkpoints call their parameters; published.py has their settings.

A table of parameters has a section for each part of the model, `our part = their part`, and in it
a row for each parameter: our name, their name, how theirs is stored. Every parameter of ours has
exactly one row, and so has every one of theirs, so a checkpoint that fits a table fits completely;
the same rows serve both directions, and values are copied, never computed.

    same        as here
    row         with a leading axis of one: (n,) here is (1, n) there
    linear      Haiku's linear map: weight (out, in) here is w (in, out) there, bias is b
    norm        Haiku's norm: weight is scale, bias is offset

`{i}` stands for every self-attend, `{m}` for every modality, `*` for weight and bias. Not in the
tables are parameters without elements (the learned query of a grid). Nothing is dropped from
Hugging Face's state dict, which has no buffers, nor from DeepMind's params; `state`, beside params
in DeepMind's file, is dropped: this model keeps none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from torch import Tensor

from .errors import PerceivioError

Form = Literal["same", "row", "transposed"]


class Row(NamedTuple):
    """One parameter under both names."""

    ours: str
    theirs: str
    form: Form

    def to_theirs(self, tensor: Tensor) -> Tensor:
        """A parameter as here -> as stored there; also for tensors on the meta device."""
        if self.form == "row":
            return tensor[None]
        return tensor.T if self.form == "transposed" else tensor

    def to_ours(self, tensor: Tensor) -> Tensor:
        """A parameter as stored there -> as here."""
        if self.form == "row":
            return tensor[0]
        return tensor.T if self.form == "transposed" else tensor


class ParameterError(PerceivioError):
    """Parameters that are missing, unknown, or of another shape than configured."""


# The three modalities that both public checkpoints are made of.
PUBLIC_MODALITIES = ("audio", "image", "label")

# Hugging Face: PerceiverForMultimodalAutoencoding.
HUGGING_FACE = """
modalities.{m} = perceiver
    padding              input_preprocessor.padding.{m}   row
    mask_token           input_preprocessor.mask.{m}      row
    query_padding        decoder.padding.{m}              row
    output.*             output_postprocessor.modalities.{m}.classifier.*  same

modalities.label = perceiver.decoder.modalities.label.decoder
    query                output_position_encodings.position_embeddings     row

encoder = perceiver
    latents              embeddings.latents               same

encoder.cross_attend = perceiver.encoder.cross_attention
    query_norm.*         attention.self.layernorm1.*      same
    attended_norm.*      attention.self.layernorm2.*      same
    attention.query.*    attention.self.query.*           same
    attention.key.*      attention.self.key.*             same
    attention.value.*    attention.self.value.*           same
    attention.output.*   attention.output.dense.*         same
    mlp_norm.*           layernorm.*                      same
    mlp.widen.*          mlp.dense1.*                     same
    mlp.narrow.*         mlp.dense2.*                     same

encoder.self_attends.{i} = perceiver.encoder.self_attends.{i}
    attention_norm.*     attention.self.layernorm1.*      same
    attention.query.*    attention.self.query.*           same
    attention.key.*      attention.self.key.*             same
    attention.value.*    attention.self.value.*           same
    attention.output.*   attention.output.dense.*         same
    mlp_norm.*           layernorm.*                      same
    mlp.widen.*          mlp.dense1.*                     same
    mlp.narrow.*         mlp.dense2.*                     same

decoder.cross_attend = perceiver.decoder.decoder.decoding_cross_attention
    query_norm.*         attention.self.layernorm1.*      same
    attended_norm.*      attention.self.layernorm2.*      same
    attention.query.*    attention.self.query.*           same
    attention.key.*      attention.self.key.*             same
    attention.value.*    attention.self.value.*           same
    attention.output.*   attention.output.dense.*         same
    mlp_norm.*           layernorm.*                      same
    mlp.widen.*          mlp.dense1.*                     same
    mlp.narrow.*         mlp.dense2.*                     same

decoder = perceiver.decoder.decoder
    output.*             final_layer.*                    same
"""

# DeepMind: a Haiku module, and pos_embs where the module has that one parameter. Haiku numbers
# modules of one name from the second on: self_attention, self_attention_1, ...
DEEPMIND = """
modalities.{m} = multimodal_preprocessor
    padding              {m}_padding/pos_embs             row
    mask_token           {m}_mask_token/pos_embs          row

modalities.{m} = multimodal_decoder/~decoder_query
    query_padding        {m}_padding/pos_embs             row

modalities.label = classification_decoder/~/basic_decoder/~
    query                trainable_position_encoding/pos_embs  row

modalities.audio = audio_postprocessor
    output.*             linear                           linear

modalities.image = projection_postprocessor
    output.*             linear                           linear

modalities.label = classification_postprocessor
    output.*             linear                           linear

encoder = encoder/~
    latents              trainable_position_encoding/pos_embs  same

encoder.cross_attend = encoder/~/cross_attention
    query_norm.*         layer_norm                       norm
    attended_norm.*      layer_norm_1                     norm
    attention.query.*    attention/linear                 linear
    attention.key.*      attention/linear_1               linear
    attention.value.*    attention/linear_2               linear
    attention.output.*   attention/linear_3               linear
    mlp_norm.*           layer_norm_2                     norm
    mlp.widen.*          mlp/linear                       linear
    mlp.narrow.*         mlp/linear_1                     linear

encoder.self_attends.{i} = encoder/~/self_attention{_i}
    attention_norm.*     layer_norm                       norm
    attention.query.*    attention/linear                 linear
    attention.key.*      attention/linear_1               linear
    attention.value.*    attention/linear_2               linear
    attention.output.*   attention/linear_3               linear
    mlp_norm.*           layer_norm_1                     norm
    mlp.widen.*          mlp/linear                       linear
    mlp.narrow.*         mlp/linear_1                     linear

decoder.cross_attend = multimodal_decoder/~/basic_decoder/cross_attention
    query_norm.*         layer_norm                       norm
    attended_norm.*      layer_norm_1                     norm
    attention.query.*    attention/linear                 linear
    attention.key.*      attention/linear_1               linear
    attention.value.*    attention/linear_2               linear
    attention.output.*   attention/linear_3               linear
    mlp_norm.*           layer_norm_2                     norm
    mlp.widen.*          mlp/linear                       linear
    mlp.narrow.*         mlp/linear_1                     linear

decoder = multimodal_decoder/~/basic_decoder
    output.*             output                           linear
"""

# A row of a table -> (our suffix, their suffix, form) of each parameter that it stands for.
_FORMS: dict[str, tuple[tuple[str, str, Form], ...]] = {
    "same": (("weight", "weight", "same"), ("bias", "bias", "same")),
    "linear": (("weight", "/w", "transposed"), ("bias", "/b", "same")),
    "norm": (("weight", "/scale", "same"), ("bias", "/offset", "same")),
}


def huggingface(self_attends: int) -> list[Row]:
    """Every parameter of a Hugging Face checkpoint with so many self-attends."""
    return _rows(HUGGING_FACE, ".", self_attends)


def deepmind(self_attends: int) -> list[Row]:
    """Every parameter of a DeepMind checkpoint with so many self-attends, as module/parameter."""
    return _rows(DEEPMIND, "/", self_attends)


def to_theirs(rows: list[Row], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our parameters under their names and in their layout."""
    return {row.theirs: row.to_theirs(ours[row.ours]).contiguous() for row in rows}


def _rows(table: str, separator: str, self_attends: int) -> list[Row]:
    rows = []
    for section in table.strip().split("\n\n"):
        head, *lines = section.split("\n")
        our_part, their_part = head.split(" = ")
        for line in lines:
            ours, theirs, form = line.split()
            row = f"{our_part}.{ours} {their_part}{separator}{theirs}"
            for written_out in _written_out(row, self_attends):
                ours, theirs = written_out.split()
                rows.extend(_parameters(ours, theirs, form))
    return rows


def _written_out(row: str, self_attends: int) -> list[str]:
    if "{m}" in row:
        return [row.replace("{m}", m) for m in PUBLIC_MODALITIES]
    if "{i}" in row:
        numbers = [(str(i), f"_{i}" if i else "") for i in range(self_attends)]
        return [row.replace("{i}", i).replace("{_i}", haiku) for i, haiku in numbers]
    return [row]


def _parameters(ours: str, theirs: str, form: str) -> list[Row]:
    if form == "row":
        return [Row(ours, theirs, "row")]
    if "*" not in ours:
        return [Row(ours, theirs, "same")]
    theirs = theirs if "*" in theirs else theirs + "*"
    return [Row(ours.replace("*", a), theirs.replace("*", b), f) for a, b, f in _FORMS[form]]


def check_parameters(
    wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Raises ParameterError naming parameters that are missing, unknown, or of another shape."""
    misshapen = [
        f"{name} is {_by(found[name])}, not {_by(shape)}"
        for name, shape in wanted.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    problems = {
        "missing": [name for name in wanted if name not in found],
        "unknown": [name for name in found if name not in wanted],
        "of another shape": misshapen,
    }
    said = []
    for problem, which in problems.items():
        if which:
            more = f" and {len(which) - 3} more" if len(which) > 3 else ""
            said.append(f"{problem}: {', '.join(which[:3])}{more}")
    if said:
        raise ParameterError(f"the parameters of {where} do not fit; {'; '.join(said)}")


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"
