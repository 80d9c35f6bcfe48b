import pytest
from engine_nets import SMALL

from ndsnn import models
from ndsnn.engine import planning
from ndsnn.engine.graph import AvgPool, Flatten, Graph, MaxPool, Neuron, Readout, Source, Synapse, Term
from ndsnn.engine.lowering import lower
from ndsnn.engine.memory import peak_live_bytes, place
from ndsnn.engine.ops import MapShape, Role
from ndsnn.engine.planning import Demand, SynapseDemand, make_program
from ndsnn.engine.program import Add, FireBack, Measure, PoolBack, Program, SynapseBack, UnloadGradient
from ndsnn.engine.shapes import infer_shapes
from ndsnn.neurons import LIFParameters

P = LIFParameters()
TRAINED = SynapseDemand(trains_weight=True, trains=True, batch_statistics=True, stored=True, in_place=True)
FROZEN = SynapseDemand(trains_weight=False, trains=False, batch_statistics=False, stored=True, in_place=True)
READOUT = SynapseDemand(trains_weight=True, trains=True, batch_statistics=False, stored=False, in_place=False)


def conv(layer: str, channels: int = 2) -> Synapse:
    return Synapse(layer, channels, 2, (3, 3), padding=(1, 1))


def neuron(node: int, pool: int = 1) -> Neuron:
    return Neuron(f"n{node}", P, (Term(node, conv(f"c{node}")),), pool=pool)


def readout(node: int, features: int = 32) -> Readout:
    return Readout(Term(node, Synapse("r", 3, features)))


def nbytes(shape: MapShape, role: Role) -> int:
    return shape.steps * shape.channels * shape.height * shape.width * (1 if role is Role.SPIKES else 32)


def program(nodes, demands, input_gradient=False, steps=2, events=True) -> Program:
    graph = Graph(tuple(nodes), steps)
    shapes = infer_shapes(graph, steps, 2, 4, 4, events=events)
    return make_program(graph, shapes, Demand(tuple(demands), input_gradient), nbytes)


def base(plan: Program, buffer: int) -> int:
    return buffer if plan.buffers[buffer].base is None else plan.buffers[buffer].base


def way_back(plan: Program) -> list[tuple]:
    """Return the backward steps as (kind, read gradient, written gradient, whether it adds to that)."""
    seen = []
    for step in plan.backward:
        if isinstance(step, FireBack):
            seen.append(("fire", step.grad_out, step.grad_x, False))
        elif isinstance(step, SynapseBack):
            written = None if step.grad_source is None else base(plan, step.grad_source)
            seen.append((plan.currents[step.current].synapse.layer, step.grad_x, written, step.accumulate))
        elif isinstance(step, Add):
            seen.append(("add", step.source, base(plan, step.into), not step.fresh))
        elif isinstance(step, PoolBack):
            seen.append(("pool", step.grad_out, step.grad_source, step.accumulate))
        elif isinstance(step, UnloadGradient):
            seen.append(("unload", step.source, None, False))
    return [(kind, base(plan, read), written and base(plan, written), adds) for kind, read, written, adds in seen]


def test_gradient_of_a_chain_stays_in_one_map():
    plan = program([Source(), neuron(0), neuron(1), Flatten("f", 2), readout(3)], [TRAINED, TRAINED, READOUT])
    logits, one = plan.backward[0].out, base(plan, plan.backward[1].grad_source)
    assert way_back(plan) == [
        ("r", logits, one, False),
        ("fire", one, one, False),
        ("c1", one, one, False),
        ("fire", one, one, False),
        ("c0", one, None, False),
    ]


def test_pool_and_repetition_of_an_image_need_maps_of_their_own():
    nodes = [Source(), neuron(0), neuron(1, pool=2), Flatten("f", 2), readout(3, 8)]
    plan = program(nodes, [TRAINED, TRAINED, READOUT], events=False)
    (_, _, pooled, _), (_, _, apart, _), second, (_, _, once, _), first = way_back(plan)
    assert len({pooled, apart, once}) == 3
    assert second == ("c1", apart, apart, False)
    assert first == ("c0", once, None, False)
    assert plan.buffers[once].shape.steps == 1


def test_pool_of_one_place_has_a_map_of_its_own_too():
    """The back end may write ∂L/∂x over ∂L/∂spikes only where there is no pool, whatever the shapes."""
    on_one = Neuron("n2", P, (Term(1, Synapse("c1", 2, 2)),), pool=2)
    plan = program([Source(), neuron(0, pool=4), on_one, readout(2, 2)], [TRAINED, TRAINED, READOUT])
    _, (_, read, written, _), *_ = way_back(plan)
    assert plan.buffers[read].shape == plan.buffers[written].shape
    assert read != written


def residual(second: Term | None = None) -> list:
    """Neuron 1 feeds a conv and, past neuron 2, the sum that neuron 3 integrates."""
    summed = Neuron("n3", P, (Term(2, conv("c2")), second or Term(1, None)))
    return [Source(), neuron(0), neuron(1), summed, Flatten("f", 3), readout(4)]


def test_identity_shortcut_hands_its_gradient_over():
    plan = program(residual(), [TRAINED, TRAINED, TRAINED, READOUT])
    (_, _, of_sum, _), fire, inner, *rest = way_back(plan)
    assert fire == ("fire", of_sum, of_sum, False)
    # ∂L/∂x is still needed by the shortcut, so the conv may not write over it.
    of_inner = inner[2]
    assert inner == ("c2", of_sum, of_inner, False)
    assert of_inner != of_sum
    assert rest == [
        ("fire", of_inner, of_inner, False),
        ("c1", of_inner, of_sum, True),
        ("fire", of_sum, of_sum, False),
        ("c0", of_sum, None, False),
    ]


def test_conv_shortcut_is_written_first_and_added_to():
    plan = program(residual(Term(1, conv("shortcut"))), [TRAINED] * 4 + [READOUT])
    (_, _, of_sum, _), _, inner, shortcut, _, outer, *_ = way_back(plan)
    assert inner == ("c2", of_sum, inner[2], False)
    # The last that reads ∂L/∂x writes over it.
    assert shortcut == ("shortcut", of_sum, of_sum, False)
    assert outer == ("c1", inner[2], of_sum, True)


def test_sum_of_maps_as_they_are():
    """Two of them: the first gets a copy, the last the map itself; a third time the same node, it is added."""
    summed = Neuron("n3", P, (Term(1, None), Term(2, None), Term(1, None)))
    nodes = [Source(), neuron(0), neuron(0), summed, Flatten("f", 3), readout(4)]
    plan = program(nodes, [TRAINED, TRAINED, READOUT])
    (_, _, of_sum, _), _, *rest = way_back(plan)
    of_first, of_second = rest[0][2], rest[1][2]
    assert rest[:3] == [
        ("add", of_sum, of_first, False),
        ("add", of_sum, of_second, False),
        ("add", of_sum, of_first, True),
    ]
    assert len({of_sum, of_first, of_second}) == 3


def test_pools_that_others_read_too():
    nodes = [
        Source(),
        neuron(0),
        MaxPool("m", 1, 4),
        AvgPool("a", 1, (1, 1)),
        Neuron("n4", P, (Term(2, Synapse("c2", 2, 2)), Term(3, Synapse("c3", 2, 2)))),
        readout(4, 2),
    ]
    plan = program(nodes, [TRAINED] * 3 + [READOUT])
    *_, average, maximum, _, _ = way_back(plan)
    assert average[0] == maximum[0] == "pool"
    assert average[2] == maximum[2]
    assert (average[3], maximum[3]) == (False, True)


def test_input_gradient_and_frozen_layers():
    plan = program([Source(), neuron(0), Flatten("f", 1), readout(2)], [FROZEN, FROZEN], input_gradient=True)
    assert [kind for kind, *_ in way_back(plan)] == ["r", "fire", "c0", "unload"]


def test_nothing_is_done_behind_the_last_layer_that_is_trained():
    nodes = [Source(), neuron(0), neuron(1), Flatten("f", 2), readout(3)]
    plan = program(nodes, [FROZEN, TRAINED, READOUT])
    assert [(kind, written) for kind, _, written, _ in way_back(plan)][-1] == ("c1", None)
    assert plan.currents[0].stored is None
    only_norm = SynapseDemand(False, True, True, True, True)
    plan = program(nodes, [FROZEN, only_norm, READOUT])
    assert [kind for kind, *_ in way_back(plan)] == ["r", "fire"]


def test_without_a_way_back_maps_go_as_soon_as_they_are_read():
    nodes = [Source(), neuron(0), neuron(1), Flatten("f", 2), readout(3)]
    plan = program(nodes, [FROZEN] * 3)
    assert plan.backward == ()
    assert [len(gone) for gone in plan.given_up] == [0, 1, 1, 1]
    assert plan.nbytes < program(nodes, [TRAINED, TRAINED, READOUT]).nbytes


@pytest.mark.parametrize("stored", [True, False])
def test_current_is_measured_where_statistics_or_a_copy_are_wanted(stored):
    nodes = [Source(), neuron(0), Flatten("f", 1), readout(2)]
    for batch, trained in ((True, True), (True, False), (False, True), (False, False)):
        plan = program(nodes, [SynapseDemand(trained, trained, batch, stored, False), FROZEN])
        kept = stored and (batch or trained)
        assert (plan.currents[0].stored is not None) == kept
        assert (Measure(0) in plan.forward) == (batch or kept)
        assert plan.currents[1].stored is None


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_arena_is_hardly_larger_than_what_is_alive(name, stored, trained, monkeypatch):
    placed = []
    monkeypatch.setattr(planning, "place", lambda lifetimes: placed.append(lifetimes) or place(lifetimes))
    graph = lower(models.MODELS[name](**SMALL[name]))
    shapes = infer_shapes(graph, 5, 3, 32, 32, events=False)
    demands = tuple(
        SynapseDemand(trained, trained, s.norm is not None, stored, s.in_channels == s.out_channels)
        for s in graph.synapses()
    )
    plan = make_program(graph, shapes, Demand(demands, False), nbytes)
    assert peak_live_bytes(placed[0]) <= plan.nbytes <= 1.08 * peak_live_bytes(placed[0])
