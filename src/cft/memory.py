"""How much memory a model takes on a GPU: closed forms, bounds from above. tests/test_memory.py measures them.

Not counted: what allocators round up to and the workspace of kernels; `cft models` adds a reserve for both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cft.packed import BLOCK
from cft.shapes import BYTES, Shape

FLOAT = 4  # bytes: norms and the loss compute in float32
PART = 2**20  # logits that cft.loss works on at once: they stay in a processor's cache and take next to no memory
KEPT = 640  # slots of cft.packed up to which attention keeps what it computes; of more it computes it twice
LAW = 32  # bytes per row and token of the vocabulary while next tokens are drawn: float32 logits to a float64 law
CHUNK = 3 * FLOAT * 2**27  # three copies of the logits that cft.perplexity computes at once on a GPU
STATES = 5  # of an adapter: weights, gradients, two moments of AdamW, a temporary copy


@dataclass(frozen=True)
class MicroBatch:
    """What is in one forward pass of training, where prompts and values have nothing else in common.

    prompts, prompt_tokens    how many prompts, and the tokens of the longest
    values, value_tokens      how many values, and the tokens of the longest, terminator included
    """

    prompts: int
    prompt_tokens: int
    values: int
    value_tokens: int

    @property
    def tokens(self) -> int:
        """Slots of cft.packed."""
        return self.prompts * (self.prompt_tokens + -(-self.values // self.prompts) * (self.value_tokens - 1))

    @property
    def blocks(self) -> tuple[int, int, int]:
        """Its blocks, their slots, and the keys of each: those and the path to the first."""
        number = -(-self.tokens // BLOCK)
        size = -(-self.tokens // number)
        return number, size, size + self.prompt_tokens + self.value_tokens - 2

    @property
    def keys(self) -> int:
        return self.blocks[0] * self.blocks[2]

    @property
    def pairs(self) -> int:
        """Pairs of slots that attention compares."""
        return self.keys * self.blocks[1]

    @property
    def labels(self) -> int:
        return self.values * self.value_tokens


def layer_bytes(shape: Shape, dtype: str, batch: MicroBatch, rank: int, targets: Sequence[str]) -> int:
    """What one layer keeps for the backward pass. Frozen linear layers keep nothing of their inputs."""
    size, queries = BYTES[dtype], shape.heads * shape.head_dim
    norms = FLOAT * shape.norms * (shape.hidden + 1)
    if shape.query_key_norms:
        norms += FLOAT * (shape.heads + shape.key_value_heads) * (shape.head_dim + 1)
    # An adapted layer keeps its input after dropout, the mask of dropout, and the narrow state between its factors.
    adapters = sum(size * (2 * shape.size_of(target)[0] + rank) for target in targets)
    if shape.experts:
        # Gate and up projections, four states between them and the gate, and the output before it is weighted.
        perceptron = size * shape.experts_per_token * (6 * shape.intermediate + shape.hidden)
    else:
        perceptron = 3 * size * shape.intermediate
    kept = batch.tokens * (norms + adapters + perceptron)
    whole = kept + attention_bytes(shape, dtype, batch)
    if batch.tokens <= KEPT:
        return whole
    states = batch.tokens * size * (queries + 2 * shape.key_value_heads * shape.head_dim)
    return max(kept + states, whole * KEPT // batch.tokens)  # where prompts have more in common, there are fewer slots


def attention_bytes(shape: Shape, dtype: str, batch: MicroBatch) -> int:
    """What attention of one layer keeps until its own backward pass: its queries, keys and values block by block."""
    size, queries = BYTES[dtype], shape.heads * shape.head_dim
    keys = 2 * size * shape.key_value_heads * shape.head_dim
    pairs = 0
    if shape.sinks:  # no fast kernel knows them: keys are repeated for every head, and the weights of pairs are kept
        keys, pairs = 2 * size * queries, size * shape.heads
    return batch.tokens * (2 * size * queries + FLOAT * shape.heads) + batch.keys * keys + batch.pairs * pairs


def kept_bytes(shape: Shape, dtype: str, batch: MicroBatch, rank: int, targets: Sequence[str]) -> int:
    """What the loss of a micro-batch keeps for the backward pass, parameters excluded."""
    layer = layer_bytes(shape, dtype, batch, rank, targets)
    return shape.layers * layer + _ends(shape, dtype, batch) + batch.labels * shape.vocabulary * BYTES[dtype]


def step_bytes(
    shape: Shape, dtype: str, batch: MicroBatch, rank: int, targets: Sequence[str], checkpointing: bool = False
) -> int:
    """The most that the forward and backward passes of a micro-batch hold, parameters and their gradients excluded.

    checkpointing    the inputs of all layers are kept, and a layer is computed again in its turn
    """
    count = batch.labels * shape.vocabulary
    logits = count * BYTES[dtype] + FLOAT * min(count, PART)  # their gradient takes their place
    layer, ends = layer_bytes(shape, dtype, batch, rank, targets), _ends(shape, dtype, batch)
    again = batch.pairs * shape.heads * BYTES[dtype] if shape.sinks else 0  # scores on their way to weights
    if batch.tokens > KEPT:
        again += attention_bytes(shape, dtype, batch)
    if checkpointing:
        inputs = shape.layers * batch.tokens * shape.hidden * BYTES[dtype]
        # The gradients within a layer come and go; measured, they are less than a fifth of what it keeps, or two fifths
        # where that has the weights of pairs.
        return inputs + ends + max(layer * (7 if shape.sinks else 6) // 5, layer + again, logits)
    return shape.layers * layer + ends + max(logits, again)


def _ends(shape: Shape, dtype: str, batch: MicroBatch) -> int:
    """What is kept outside the layers: of the last norm, tables of rotary embeddings, who sees whom and two masks."""
    repeated = 1 if shape.sinks else shape.heads // shape.key_value_heads
    masks = batch.pairs * (1 + repeated * 2 * BYTES[dtype])
    return batch.tokens * (FLOAT * (shape.hidden + 1) + 4 * BYTES[dtype] * shape.head_dim) + masks


def training_bytes(
    shape: Shape,
    dtype: str,
    batch: MicroBatch,
    rank: int,
    targets: Sequence[str],
    adapter_dtype: str,
    checkpointing: bool = False,
    shards: int = 1,
) -> int:
    """The peak of a process that trains.

    shards    processes that share the frozen weights; each still gathers the embeddings and two layers, and has the
              whole adapter
    """
    weights = shape.weight_bytes(dtype)
    if shards > 1:
        embeddings = shape.output_layer * (1 if shape.tied_embeddings else 2)
        layer = (shape.parameters - shape.other - embeddings) // shape.layers
        weights = weights // shards + (embeddings + 2 * layer) * BYTES[dtype]
    adapter = STATES * shape.trainable(rank, targets) * BYTES[adapter_dtype]
    return weights + adapter + step_bytes(shape, dtype, batch, rank, targets, checkpointing)


def sampling_bytes(shape: Shape, dtype: str, cache_tokens: int, rows: int) -> int:
    """The peak of the transformers engine: weights, keys and values of its rows, and the laws of their next tokens."""
    return shape.weight_bytes(dtype) + cache_tokens * shape.cache_bytes(dtype) + rows * shape.vocabulary * LAW


def reading_bytes(shape: Shape, dtype: str, tokens: int) -> int:
    """The peak of a pass over `tokens` tokens that keeps no cache and computes logits some rows at a time."""
    layer = tokens * BYTES[dtype] * (6 * shape.hidden + 3 * shape.intermediate * max(1, shape.experts_per_token))
    return shape.weight_bytes(dtype) + layer + CHUNK
