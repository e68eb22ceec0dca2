"""The layers of a decoder, one after the other: unrolled, or equal ones in a scan.

A scan is compiled once for all its layers. Parameters keep their names and places: frozen ones are
chosen inside the loop, one layer at a time, so no second copy exists; trained ones are stacked for
the length of a step, in the dtype that is computed in, and their gradients leave the loop stacked.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from adapt_jax.decoders.attention import KVBlock, KVPair
from adapt_jax.decoders.attention_inputs import AttentionInputs
from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.execution import REMAT_POLICIES, Execution, ParameterPath
from adapt_jax.decoders.sharding import array_sharding
from adapt_jax.decoders.states import LayerState
from adapt_jax.decoders.transformer_layer import LayerCache, TransformerLayer

__all__ = ["LayerStack", "Span", "find_spans"]

MAX_PERIOD = 16  # layers of a repeating pattern that are looked for
CHOSEN = "chosen_weights"  # the name of what a scan reads from frozen weights


@dataclass(frozen=True)
class Span:
    """Layers ``start`` to ``start + period * repeats``: a pattern of layers, repeated."""

    start: int
    period: int
    repeats: int

    @property
    def stop(self) -> int:
        """The layer that follows."""
        return self.start + self.period * self.repeats


def find_spans(kinds: Sequence[Hashable]) -> list[Span]:
    """Cuts layers of these kinds into repeating patterns; where nothing repeats, into single ones.

    From the left, each time the pattern that leaves the fewest layers to compile; of several, the
    shortest.
    """
    spans, start = [], 0
    while start < len(kinds):
        best = Span(start, 1, 1)
        for period in range(1, min(MAX_PERIOD, (len(kinds) - start) // 2) + 1):
            stop = start + period
            while stop < len(kinds) and kinds[stop] == kinds[stop - period]:
                stop += 1
            repeats = (stop - start) // period
            if period * (repeats - 1) > best.period * (best.repeats - 1):
                best = Span(start, period, repeats)
        spans.append(best)
        start = best.stop
    return spans


@dataclass(frozen=True)
class LayerStack:
    """What all layers of a decoder run with.

    Attributes:
        inputs: what is the same in all layers.
        per_layer_embeddings: [B, T, E] for each layer; None where the decoder has none.
        prefix, cache, output_positions: as in ``Decoder.__call__``.
        keep_kv: whether keys, values and states are returned.
    """

    config: DecoderConfig
    execution: Execution
    inputs: AttentionInputs
    per_layer_embeddings: Sequence[Array | None]
    prefix: list[Any] | None = None
    cache: list[Any] | None = None
    output_positions: Int[Array, " M"] | None = None
    keep_kv: bool = True

    def run(
        self, layers: Sequence[TransformerLayer], x: Float[Array, "B T D"]
    ) -> tuple[Float[Array, "B T D"], list[Any]]:
        """The output of the last layer, and what the layers keep, as ``Decoder.__call__``.

        The list is empty where it is not asked for.
        """
        kept: dict[int, LayerCache] = {}  # by layer
        for span in self._choose_spans(layers):
            if span.repeats > 1:
                x, of_span = self._scan(span, layers, x, kept)
                kept |= of_span
                continue
            for index in range(span.start, span.stop):
                x, kept[index] = self._apply(index, layers[index], x, kept)
        if not self.keep_kv:
            return x, []
        kv = [kept[index].kv for index in self.config.layers_with_kv_cache]
        return x, [*kv, *(kept[index].state for index in self.config.layers_with_state)]

    def _choose_spans(self, layers: Sequence[TransformerLayer]) -> list[Span]:
        """Single layers, or repeating patterns. A last layer that computes less is apart."""
        count = len(layers)
        if not self.execution.scan_layers or self.cache is not None:
            return [Span(index, 1, 1) for index in range(count)]
        equal = count if self.output_positions is None else count - 1
        kinds = [_describe(layer) for layer in layers[:equal]]
        return [*find_spans(kinds), *(Span(index, 1, 1) for index in range(equal, count))]

    def _apply(
        self, index: int, layer: TransformerLayer, x: Array, kept: dict[int, LayerCache]
    ) -> tuple[Array, LayerCache]:
        """One layer by itself."""
        source, entry = self._source(index), self._entry(index)
        is_last = index == self.config.num_layers - 1
        inputs = replace(
            self.inputs,
            prefix=None if self.prefix is None or entry is None else self.prefix[entry],
            cache=None if self.cache is None or entry is None else self.cache[entry],
            shared_kv=None if source is None else kept[source].kv,
            state=self._find_state(index, x.shape[0]),
            output_positions=self.output_positions if is_last else None,
        )
        embedding = self.per_layer_embeddings[index]
        if self.execution.traces_once and inputs.fused_attention is None:
            return _run_layer(*nnx.split(layer), x, inputs, embedding)
        run: Callable[..., Any] = partial(layer, inputs=inputs, per_layer_embedding=embedding)
        if self.execution.remat != "none":
            run = jax.checkpoint(run, policy=REMAT_POLICIES[self.execution.remat])
        found: tuple[Array, LayerCache] = run(x)
        return found

    def _scan(
        self,
        span: Span,
        layers: Sequence[TransformerLayer],
        x: Array,
        kept: dict[int, LayerCache],
    ) -> tuple[Array, dict[int, LayerCache]]:
        """The layers of a span in one loop, a pattern at a time; their output, what they keep."""
        columns = [range(span.start + n, span.stop, span.period) for n in range(span.period)]
        weights = [
            _ScannedWeights.collect(layers, column, self.execution, x.dtype) for column in columns
        ]
        is_needed = [any(map(self._is_needed, column)) for column in columns]

        def apply_pattern(x: Array, looped: Any) -> tuple[Array, list[LayerCache]]:
            step, stacked, prefixes, states, embeddings = looped
            found: list[LayerCache] = []
            for n, column in enumerate(columns):
                source = self._source(column[0])
                inputs = replace(
                    self.inputs,
                    prefix=self._read_prefix(column[0], prefixes[n]),
                    shared_kv=None if source is None else kept[source].kv,
                    state=states[n],
                )
                layer = weights[n].make_layer(step, stacked[n])
                x, of_layer = layer(x, inputs, embeddings[n])
                found.append(of_layer if is_needed[n] else LayerCache())
            return x, found

        looped = (
            jnp.arange(span.repeats),
            [one.stacked for one in weights],
            [self._stack_prefix(column) for column in columns],
            [self._stack_states(column, x.shape[0]) for column in columns],
            [_stack([self.per_layer_embeddings[index] for index in column]) for column in columns],
        )
        # what the loop reads from frozen weights is read again in the backward pass
        policy = (
            jax.checkpoint_policies.save_anything_except_these_names(CHOSEN)
            if self.execution.remat == "none"
            else REMAT_POLICIES[self.execution.remat]
        )
        body = jax.checkpoint(apply_pattern, policy=policy, prevent_cse=False)
        x, found = jax.lax.scan(body, x, looped)
        by_layer = {
            index: jax.tree.map(lambda stacked, step=step: stacked[step], of_column)
            for column, of_column in zip(columns, found, strict=True)
            for step, index in enumerate(column)
        }
        return x, by_layer

    def _is_needed(self, index: int) -> bool:
        """Whether what a layer keeps is returned, or shared by later layers."""
        is_shared = any(self._source(n) == index for n in range(self.config.num_layers))
        return self._source(index) is None and (self.keep_kv or is_shared)

    def _stack_prefix(self, column: range) -> KVPair | None:
        """The prefix's keys and values of layers that have their own."""
        has_own = self._source(column[0]) is None and self._entry(column[0]) is not None
        if self.prefix is None or not has_own:
            return None
        entries = [self._get_block(index) for index in column]
        return jnp.stack([one[0] for one in entries]), jnp.stack([one[1] for one in entries])

    def _read_prefix(self, index: int, pair: KVPair | None) -> KVBlock | None:
        """The prefix of a layer in a loop; ``pair`` are its own keys and values, if any."""
        if self.prefix is None or self._entry(index) is None:
            return None
        block = self._get_block(index)
        return block if pair is None else (*pair, block[2])

    def _get_block(self, index: int) -> KVBlock:
        """The prefix's keys, values and mask of a layer that attends."""
        entry = self._entry(index)
        assert self.prefix is not None and entry is not None
        block: KVBlock = self.prefix[entry]
        return block

    def _stack_states(self, column: range, rows: int) -> LayerState | None:
        """The states with which the layers of a column begin."""
        states = [self._find_state(index, rows) for index in column]
        if states[0] is None:
            return None
        stacked: LayerState = jax.tree.map(lambda *arrays: jnp.stack(arrays), *states)
        return stacked

    def _find_state(self, index: int, rows: int) -> LayerState | None:
        """The state with which a layer begins: of the cache, or else of the prefix."""
        entries = self.prefix if self.cache is None else self.cache
        if entries is None or not self.config.layer_config(index).has_state:
            return None
        config = self.config
        place = len(config.layers_with_kv_cache) + config.layers_with_state.index(index)
        state: LayerState = entries[place]
        return state.repeat(rows) if state.convolution.ndim == 2 else state

    def _source(self, index: int) -> int | None:
        """The layer whose keys and values this one shares."""
        return self.config.layer_config(index).kv_shared_with

    def _entry(self, index: int) -> int | None:
        """Where prefixes and caches have the keys and values that this layer attends to, if any."""
        source = self._source(index)
        if not self.config.layer_config(index).has_attention:
            return None
        return self.config.layers_with_kv_cache.index(index if source is None else source)


@dataclass(frozen=True)
class _ScannedWeights:
    """The weights of equal layers, as a loop over them reads them.

    Attributes:
        graph: of one layer.
        variables: of the first layer, by path.
        stacked: trained weights by path, [layers, ...].
        frozen: frozen weights by path, those of each layer.
        dtype: that kernels are multiplied in.
    """

    graph: Any
    variables: dict[ParameterPath, nnx.Variable]
    stacked: dict[ParameterPath, Array]
    frozen: dict[ParameterPath, list[Array]]
    execution: Execution
    dtype: Any

    @staticmethod
    def collect(
        layers: Sequence[TransformerLayer], column: range, execution: Execution, dtype: Any
    ) -> "_ScannedWeights":
        """The weights of the layers in ``column``; trained ones are stacked."""
        split = [nnx.split(layers[index]) for index in column]
        flat: list[dict[Any, Any]] = [dict(nnx.to_flat_state(state)) for _, state in split]
        weights = _ScannedWeights(split[0][0], flat[0], {}, {}, execution, dtype)
        for path in flat[0]:
            values = [one[path].get_value() for one in flat]
            full_paths = {("layers", index, *path) for index in column}
            if execution.trained is None or full_paths & execution.trained:
                weights.stacked[path] = weights._place(
                    jnp.stack([weights._cast(path, value) for value in values]), path, stacked=True
                )
            else:
                weights.frozen[path] = values
        return weights

    def make_layer(self, step: Array, slices: dict[ParameterPath, Array]) -> TransformerLayer:
        """The layer of one step of the loop; ``slices`` are its part of ``stacked``."""
        branches = [
            partial(lambda n: {path: values[n] for path, values in self.frozen.items()}, n)
            for n in range(len(next(iter(self.frozen.values()), [])))
        ]
        chosen = jax.lax.switch(step, branches) if branches else {}
        chosen = {
            path: checkpoint_name(self._cast(path, self._place(value, path)), CHOSEN)
            for path, value in chosen.items()
        }
        values = {path: self._place(value, path) for path, value in slices.items()} | chosen
        state: Any = [(path, one.replace(values[path])) for path, one in self.variables.items()]
        layer: TransformerLayer = nnx.merge(self.graph, nnx.from_flat_state(state))
        return layer

    def _cast(self, path: ParameterPath, value: Array) -> Array:
        """Kernels in the dtype in which they are multiplied; the others as they are."""
        is_experts = value.ndim == 3 and "lora" not in path
        is_kernel = path[-1] == "kernel" or is_experts
        return value.astype(self.dtype) if is_kernel else value

    def _place(self, value: Array, path: ParameterPath, *, stacked: bool = False) -> Array:
        """The weights where their logical axes say; a stack of them has one more axis in front."""
        mesh = self.execution.mesh
        if mesh is None or mesh.size == 1:
            return value
        axes = self.variables[path].get_metadata().get("axes", (None,) * (value.ndim - stacked))
        sharding = array_sharding(axes, value.shape[stacked:], mesh)
        if stacked:
            sharding = NamedSharding(mesh, PartitionSpec(None, *sharding.spec))
        return jax.lax.with_sharding_constraint(value, sharding)


@partial(jax.jit, static_argnums=0)
def _run_layer(
    graph: Any, state: Any, x: Array, inputs: AttentionInputs, per_layer_embedding: Array | None
) -> tuple[Array, LayerCache]:
    """One layer as a function of its weights, which is traced once for all equal layers."""
    layer: TransformerLayer = nnx.merge(graph, state)
    return layer(x, inputs, per_layer_embedding)


def _describe(layer: TransformerLayer) -> Hashable:
    """What has to be equal for two layers to share one compiled body."""
    graph, state = nnx.split(layer)
    arrays = [(path, one.shape, str(one.dtype)) for path, one in nnx.to_flat_state(state)]
    return graph, tuple(arrays)


def _stack(arrays: list[Array | None]) -> Array | None:
    """The arrays stacked, or None where there are none."""
    present = [array for array in arrays if array is not None]
    return jnp.stack(present) if present else None
