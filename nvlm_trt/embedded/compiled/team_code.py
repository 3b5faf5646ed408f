"""Several threads in one step: they take tasks from a counter and wait for each other between phases.

Tasks are taken, not assigned, so a thread that the system holds up keeps nobody waiting longer than its task. A result
does not depend on who computed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from nvlm_trt.embedded.compiled.layout import LINE
from nvlm_trt.embedded.compiled.vector_writer import VectorWriter

__all__ = ["SEEN", "WAKE", "TeamWriter"]

SEEN, WAKE = 8, 16  # in a worker's line, which begins with whether it sleeps
_PATIENCE = 2000  # looks, some 100 microseconds; then a waiting thread gives way


class TeamWriter:
    """``board`` begins with the number of arrivals since ever; each phase's counter has a line of its own and must be
    0 when the step begins.
    """

    def __init__(self, w: VectorWriter) -> None:
        self.w = w
        ir, nothing = w.ir, w.ir.VoidType()
        self._yield = ir.Function(w.module, ir.FunctionType(w.word, []), "sched_yield")
        self._pause = None
        if w.is_x86:
            self._pause = ir.Function(w.module, ir.FunctionType(nothing, []), "llvm.x86.sse2.pause")

    @contextmanager
    def tasks(self, board: Any, phase: Any, count: Any) -> Iterator[Any]:
        """The numbers below ``count`` that this thread gets."""
        w, b = self.w, self.w.b
        counter = w.at(board, LINE, (w.integer(phase), LINE))
        head, body, after = (b.function.append_basic_block(name) for name in ("next", "task", "done"))
        b.branch(head)
        b.position_at_end(head)
        task = b.atomic_rmw("add", counter, w.size(1), "monotonic")
        b.cbranch(b.icmp_signed("<", task, w.integer(count)), body, after)
        b.position_at_end(body)
        yield task
        b.branch(head)
        b.position_at_end(after)

    def write_meet(self) -> None:
        """``meet(board, threads)`` returns when all threads have called it as often."""
        w = self.w
        with w.function("meet", "ai", exported=False) as (board, threads):
            b = w.b
            before = b.atomic_rmw("add", board, w.size(1), "acq_rel")
            wanted = b.mul(b.add(b.udiv(before, threads), w.size(1)), threads)
            with self._looking(lambda: b.icmp_signed(">=", self._see(board), wanted)):
                b.call(self._yield, [])

    def write_call(self) -> None:
        """``call(calls, workers)``: there is a new step. ``asleep`` of each worker is what it was."""
        w = self.w
        with w.function("call", "ai") as (calls, workers):
            w.b.atomic_rmw("add", calls, w.size(1), "seq_cst")
            with w.loop(workers) as worker:
                line = w.at(calls, LINE, (worker.index, LINE))
                w.store(w.b.atomic_rmw("xchg", line, w.size(0), "seq_cst"), w.at(line, WAKE))

    def write_work(self) -> None:
        """``work(calls, record, thread)`` takes part in steps, and returns when none has come for a while, or at a
        negative number of calls. Before it returns it has said so: who finds a worker asleep has to wake it.
        """
        w = self.w
        with w.function("work", "aai") as (calls, record, thread):
            b = w.b
            line = w.at(calls, (thread, LINE))  # thread 0 calls, so worker 0 is thread 1
            again, gone = b.function.append_basic_block("again"), b.function.append_basic_block("gone")
            b.branch(again)
            b.position_at_end(again)
            seen = w.load(w.at(line, SEEN), w.size)

            def called() -> Any:
                return b.icmp_signed("!=", self._see(calls), seen)

            with self._looking(called):
                b.atomic_rmw("xchg", line, w.size(1), "seq_cst")
                with b.if_then(b.not_(called())):
                    b.branch(gone)
                was = b.atomic_rmw("xchg", line, w.size(0), "seq_cst")
                with b.if_then(b.icmp_signed("==", was, w.size(0))):
                    b.branch(gone)  # it has been found, and is being woken
            number = self._see(calls)
            with b.if_then(b.icmp_signed("<", number, w.size(0))):
                b.branch(gone)
            w.store(number, w.at(line, SEEN))
            w.call("step", record, thread)
            b.branch(again)
            b.position_at_end(gone)

    def _see(self, address: Any) -> Any:
        return self.w.b.load_atomic(address, "seq_cst", 8, typ=self.w.size)

    @contextmanager
    def _looking(self, come: Callable[[], Any]) -> Iterator[None]:
        """Look until ``come()`` says yes; each time that has taken long, do what is written inside."""
        w, b = self.w, self.w.b
        before = b.block
        look, no, pausing, tired, after = (
            b.function.append_basic_block(name) for name in ("look", "no", "pausing", "tired", "after")
        )
        b.branch(look)
        b.position_at_end(look)
        looks = b.phi(w.size)
        looks.add_incoming(w.size(0), before)
        b.cbranch(come(), after, no)
        b.position_at_end(no)
        again = b.add(looks, w.size(1))
        b.cbranch(b.icmp_signed("<", again, w.size(_PATIENCE)), pausing, tired)
        b.position_at_end(pausing)
        if self._pause:
            b.call(self._pause, [])
        looks.add_incoming(again, pausing)
        b.branch(look)
        b.position_at_end(tired)
        yield
        looks.add_incoming(w.size(_PATIENCE), b.block)
        b.branch(look)
        b.position_at_end(after)
