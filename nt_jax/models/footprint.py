"""Bytes that the programs of a model hold on one device, in closed form: nothing is compiled.

Weights lie by the rules of nt_jax/mesh.py. What a program takes beside its arguments is that of its
largest phase, a sum of the arrays that live at once. Which these are was read from what XLA makes
of the programs for an H100; benchmarks/plan.py holds both against each other. Letters are those of
models/transformer.py, of sizes that are shared out a device's part: T tokens of a sequence, B and R
sequences and rows.
"""

import dataclasses
import math

import jax.numpy as jnp

from nt_jax.mesh import SHARDING_RULES
from nt_jax.models.attention import stored, together
from nt_jax.models.config import ModelConfig
from nt_jax.models.grouping import grouping_of, laid_out
from nt_jax.models.head import LOGIT_BYTES
from nt_jax.models.transformer import leaf_axes, leaf_dtype

WIDE = 4  # bytes of what sums, softmaxes and factors are kept in
CORES, TILE, STEP = 132, 128, 16  # of an H100; of a matrix product's result, of its sum
SIZES = {"F": "neurons", "N": "heads", "K": "kv_heads", "V": "vocab_size"}


def parameters(model: ModelConfig) -> int:
    """Number of weights, a tied embedding counted once; steps of int8 matrices are none."""
    model = dataclasses.replace(model, int8=False)
    return sum(_size(model, axes) for axes in leaf_axes(model).values())


def layer_parameters(model: ModelConfig) -> int:
    """Number of weights of one layer."""
    model = dataclasses.replace(model, int8=False)
    return sum(_size(model, axes[1:]) for axes in leaf_axes(model).values() if axes[0] == "L")


def weight_bytes(model: ModelConfig, item: int) -> int:
    """Bytes of all weights, `item` each where they are not kept as int8."""
    return layer_bytes(model, item) * model.layers + item * sum(
        _size(model, axes) for axes in leaf_axes(model).values() if axes[0] != "L"
    )


def layer_bytes(model: ModelConfig, item: int) -> int:
    """Bytes of the weights of one layer."""
    named = [(name, axes[1:]) for name, axes in leaf_axes(model).items() if axes[0] == "L"]
    kinds = {name: leaf_dtype(model, name, None) for name, _ in named}
    items = {name: jnp.dtype(kind).itemsize if kind else item for name, kind in kinds.items()}
    return sum(items[name] * _size(model, axes) for name, axes in named)


def _size(model: ModelConfig, axes: str) -> int:
    return math.prod(model.sizes[axis] for axis in axes)


def part_of(model: ModelConfig, ways: int) -> ModelConfig:
    """The shape of what one of `ways` devices along mesh.model holds (check_mesh: they divide it).

    Heads are those that lie there, copies and zeros too (nt_jax/models/grouping.py). Every weight
    has one axis at most that is shared out, so its sizes say all.
    """
    split = [SIZES[letter] for letter, axes in SHARDING_RULES.items() if "model" in axes]
    laid = laid_out(model, ways)
    return dataclasses.replace(laid, **{name: getattr(laid, name) // ways for name in split})


@dataclasses.dataclass(frozen=True)
class Footprint:
    """What one device of a mesh holds of a model, all in bytes.

    Rows, sequences and slots are counted over the whole mesh: a device has its `data` part of them.
    """

    whole: ModelConfig
    item: int  # bytes of a weight
    data: int = 1  # parts that rows are cut in: mesh.data x mesh.fsdp
    model: int = 1
    fsdp: int = 1
    fused: bool = False  # slopes by models/fused_attention.py, which take less: no run plans on it

    @property
    def part(self) -> ModelConfig:
        """The sizes of this device's part, as it computes with them."""
        return part_of(self.whole, self.model)

    @property
    def stored(self) -> ModelConfig:
        """The sizes of what lies here between passes: of every weight's width a share."""
        return dataclasses.replace(self.part, width=self.part.width // self.fsdp)

    @property
    def weights(self) -> int:
        """All weights and the scale of the neurons."""
        return weight_bytes(self.stored, self.item) + WIDE * self.part.layers * self.part.neurons

    @property
    def layers(self) -> int:
        """The layers alone: what decoding holds a second time, one by one (generate/slots.py)."""
        part = self.part
        return part.layers * (layer_bytes(self.stored, self.item) + WIDE * part.neurons)

    @property
    def read_again(self) -> int:
        """What an export that is read again takes: all weights, or a layer at a time of both sides.

        Beside int8 matrices stands what the source holds, which need not fit as a whole. A pair of
        layers goes when the next one has come.
        """
        if not self.whole.int8:
            return self.weights
        wide = self.item * layer_parameters(self.stored) + WIDE * self.part.neurons
        return self.weights - self.layers + 4 * wide

    @property
    def gathered(self) -> int:
        """What fsdp makes whole here in a way back: the head and a layer.

        Two of each where mesh.model cuts them as well; XLA holds a little less or more by the mesh.
        """
        whole = self._whole_head + layer_bytes(self.part, self.item)
        return whole * (2 if self.model > 1 else 1) if self.fsdp > 1 else 0

    def cache(self, rows: int, columns: int) -> int:
        """Keys and values of so many columns in every row."""
        part = self.part
        heads = part.kv_heads * part.head_dim
        return 2 * self.item * part.layers * rows * columns * heads // self.data

    def kept(self, tokens: int) -> int:
        """What the way back of one layer needs of one token of a sequence.

        Of a neuron two inputs, activation, its slope and product, and its wide activation; two
        wide streams; q, k, v; a row of attention weights, wide and not, unless made again. Fused
        attention keeps what it gives instead, and a number for each head.
        """
        part, item = self.part, self.item
        neurons = (5 * item + WIDE) * part.neurons
        heads = item * (part.heads + 2 * part.kv_heads) * part.head_dim
        scores = (WIDE + item) * part.heads * stored(tokens)
        if self.fused:
            scores = (item * part.head_dim + WIDE) * part.heads
        return neurons + 2 * WIDE * part.width + heads + scores

    def turned(self, tokens: int) -> int:
        """The largest of the arrays in `kept`: before the way back they are transposed in turn."""
        scores = 0 if self.fused else self.part.heads * stored(tokens)
        return WIDE * max(self.part.neurons, scores)

    def slopes(self, rows: int, tokens: int, layers: int, remat: bool = False) -> int:
        """Temporaries of train/slopes.py: a gradient through `layers` layers of each row."""
        own = rows * tokens // self.data * layers
        if remat:
            streams = own * self.item * self.part.width
            again = self._recomputed(rows, tokens, layers, 1) + self.gathered
            return max(streams + self._wide_head, again)
        again = max(own * self.turned(tokens), self._wide_head, self._part(rows, tokens))
        beside = self.gathered // 2 if self.model > 1 else 0  # of the head that is widened there
        return own * self.kept(tokens) + again + beside

    def meta_step(
        self, side: int, tokens: int, targets: int, layers: int, *, remat: bool, order: int = 2
    ) -> int:
        """Temporaries of train/maml.py: `side` sequences at once, with tangents in second order."""
        head, own = self._head(side, targets, order), side * tokens // self.data * layers
        if remat:
            streams = order * own * self.item * self.part.width
            again = self._recomputed(side, tokens, layers, order) + self.gathered
            return max(streams + head + 2 * self._whole_head, again)
        again = max(own * self.turned(tokens), head, order * self._part(side, tokens))
        return order * own * self.kept(tokens) + again + self.gathered

    def attribution(self, rows: int, prompt: int, answer: int) -> int:
        """Temporaries of attribution/integrated.py: rows of `answer` tokens behind a prompt."""
        turned = self.data * self.cache(1, prompt) if self.model == 1 else 0  # the prompt's columns
        rows = -(-rows // self.data)
        logits = WIDE * rows * answer * self.part.vocab_size
        gathered = answer == 1 and self.model > 1  # the logits, which takes more
        widened = 0 if gathered else max(0, self._widened(answer) - logits)
        return turned + rows * self.attribution_row(prompt, answer) + widened + self.gathered

    def prefix(self, tokens: int, answer: int) -> int:
        """Temporaries of attribution/suffix.py's one pass over prompt and `answer` tokens."""
        part, own = self.part, self.item * tokens
        streams = 2 * own * part.width + self.item * part.layers * answer * part.width
        layer = max(3 * own * part.neurons, self._part(self.data, tokens) // 2)
        return streams + self.data * self.cache(1, tokens) + layer + self.gathered

    def attribution_row(self, prompt: int, answer: int) -> int:
        """Of one of these rows, on the device that has it.

        Of each layer the way back needs the stream before and after attention, q, k and v, and the
        neurons' two inputs. Beside them there is more at the logits and their slope (a single
        token's are gathered on every device), or in a layer: a row of attention weights, wide and
        twice not (fused, not even that), and four arrays of its neurons.
        """
        part = self.part
        heads = (part.heads + 2 * part.kv_heads) * part.head_dim
        kept = part.layers * self.item * (2 * (part.neurons + part.width) + heads)
        logits = 2 * WIDE * part.vocab_size
        if answer == 1 and self.model > 1:
            logits = logits // 2 + 2 * WIDE * self.whole.vocab_size
        scores = (WIDE + 2 * self.item) * part.heads * (prompt + answer)
        layer = scores + 4 * self.item * part.neurons
        return answer * (kept + max(logits, layer) + self.item * part.width)

    def _widened(self, answer: int) -> int:
        """The head in float32, as a library's product of it with the logits' slope needs it.

        XLA's own kernels read it as it is, but have tiles for powers of two only.
        """
        group = grouping_of(self.whole, self.model).group
        own = answer == 1 and group & (group - 1) == 0
        return 0 if own else self._wide_head

    @property
    def _whole_head(self) -> int:
        """What fsdp gathers of the head; some programs hold it twice, as sent and turned."""
        return (self.fsdp > 1) * self.item * self.part.vocab_size * self.part.width

    @property
    def _wide_head(self) -> int:
        return WIDE * self.part.vocab_size * self.part.width

    def prefill(
        self, tokens: int, rows: int, width: int, shared: int = 64, stacked: bool = False
    ) -> int:
        """Temporaries of generate/decode.py's prefill: `rows` padded to `width` own tokens.

        The larger of attention over own and `shared` columns, and of the neurons. `stacked`: the
        layers are one stack (generate/slots.py), whose values are turned for the cache at the end.
        """
        part, tokens, rows = self.part, tokens // self.data, -(-rows // self.data)
        streams = (4 if self.model == 1 else 6) * self.item * tokens * part.width
        neurons = streams + 2 * self.item * tokens * part.neurons
        scores = 2 * self.item * rows * part.heads * together(width) * (width + shared)
        attended = scores + self.item * tokens * part.heads * part.head_dim
        if stacked:
            turned = self.cache(rows * self.data, width) // 2
            return turned + max(neurons, attended) + self._whole_head
        gathered = (self.fsdp > 1) * 3 * self.item * part.width * part.neurons  # of one layer
        return gathered + max(neurons, attended)

    def insert(self, rows: int, columns: int) -> int:
        """Temporaries of a refill's way into the slots: its rows are gathered on every device."""
        return self.data * self.cache(rows, columns) if self.data > 1 else 0

    def score(self, rows: int, prompt: int, answer: int) -> int:
        """Temporaries of generate/likelihood.py: logits of all answer tokens, or a layer's."""
        part, rows = self.part, -(-rows // self.data)
        streams = (1 if self.model == 1 else 2) * self.item * rows * answer * part.width
        logits = WIDE * rows * answer * part.vocab_size
        layer = 3 * part.width + part.neurons + max(part.width, part.neurons)
        layer *= self.item * rows * (prompt + answer)
        scores = self._part(rows * self.data, prompt + answer) // 2
        return max(streams + logits, layer + scores) + 2 * self._whole_head

    def decode(self, slots: int) -> int:
        """Temporaries of generate/decode.py's decode: the logits of a step."""
        return WIDE * slots // self.data * self.part.vocab_size

    def _recomputed(self, side: int, tokens: int, layers: int, order: int) -> int:
        """A way back that keeps what enters each layer and runs a layer again when it needs it."""
        part, own = self.part, side * tokens // self.data
        streams = order * layers * own * self.item * part.width
        weights = self.item * layer_parameters(part)
        whole = 2 * WIDE * own * part.heads * stored(tokens)
        scores = max(whole, order * self._part(side, tokens))
        summed = (1 if self.model == 1 else 7) * WIDE * own * part.width  # by the devices
        return streams + weights + scores + 3 * self.item * own * part.neurons + summed

    def _part(self, side: int, tokens: int) -> int:
        """Scores of the queries of a part on the way back, where they are taken in parts."""
        queries = 0 if stored(tokens) else together(tokens)
        return 2 * WIDE * side // self.data * self.part.heads * queries * tokens

    def _head(self, side: int, targets: int, order: int) -> int:
        """The way back through the logits, a stretch of the vocabulary at a time.

        A device does so for its own sequences, which are apart (side_by_side, train/objectives.py).
        Of several side by side, in second order, four to six arrays of logits live at once (five
        here), or two beside the head, which a library multiplies by, widened, unless the width is a
        power of two.

        XLA cuts the product's sum over the vocabulary in parts that keep all cores of a device
        busy; where these are no whole steps, it pads the head, and widens it for that.
        """
        sequences = -(-side // self.data)
        own, several = sequences * targets, sequences > 1 and order > 1
        most = max(1, LOGIT_BYTES // (WIDE * targets))
        width = self.part.vocab_size if self.model > 1 else min(self.whole.vocab_size, most)
        tiles = -(-self.part.width // TILE) * -(-own // TILE)
        parts = 1 << max(1, CORES // tiles).bit_length() - 1
        wide, logits = self._wide_head, WIDE * own * width
        if several:
            power = self.part.width & (self.part.width - 1) == 0
            return max(5 * logits, 0 if power else wide + 2 * logits)
        return 3 * logits + (wide if width % (parts * STEP) else 0)
