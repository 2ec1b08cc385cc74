"""Mutants: the engine broken on purpose, one way each, and the test that must fail for it.

    file, old, new: `old` stands exactly once in `file` and becomes `new`.  tests: of which at least one must fail,
    or not end within five times as long as it takes in the whole tree where `hangs` says so.

`tests/mutants/test_mutants.py` applies each to a copy of the tree. What resumed runs could forget is broken inside the
processes of tests/life.py instead (`MUTANTS` there), in every ordinary test run.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    hangs: bool = False  # the test does not fail, it never ends


_POWER = "tests/faults/test_power_loss.py::test_a_cut_anywhere_leaves_a_checkpoint_that_verifies"
_STORE = "tests/unit/test_checkpoint.py::"
_RESUME = "tests/e2e/test_resume.py::"
_DISKS = "tests/faults/test_disks.py::"
_MEMORY = "tests/faults/test_memory.py::"
_SIGNALS = "tests/faults/test_signals.py::"
_NAN = "tests/e2e/test_nonfinite.py::"
_MANY = "tests/distributed/test_one_from_many.py::"
_TWO = "tests/distributed/test_two_ranks.py::"
_LOST = "tests/distributed/test_lost.py::"

MUTANTS = (
    # ------------------------------------------------------------------------------------------------ checkpoints
    Mutant(
        "the name of the checkpoints' folder is not synced",
        "visloom/checkpoint.py",
        "make_dirs(self.directory)",
        "self.directory.mkdir(parents=True, exist_ok=True)",
        (_POWER,),
    ),
    Mutant(
        "the files of a checkpoint are not synced",
        "visloom/bundle.py",
        'os.fsync(file.fileno())\n    faults.point(f"after-file',
        'file.flush()\n    faults.point(f"after-file',
        (_POWER,),
    ),
    Mutant(
        "folders are not synced",
        "visloom/durable.py",
        "os.fsync(handle)",
        "os.fstat(handle)",
        (_POWER,),
    ),
    Mutant(
        "a checkpoint is written in place",
        "visloom/checkpoint.py",
        'temporary = self.directory / f".tmp-{step_name(step)}-{os.getpid()}"\n        try:',
        "temporary = self.directory / step_name(step)\n        try:",
        ("tests/faults/test_checkpoint_faults.py::test_killed_at_every_point_of_a_save",),
    ),
    Mutant(
        "the hash of a file is not compared",
        "visloom/bundle.py",
        'if digest != entry.get("sha256"):',
        "if not digest:",
        (_STORE + "test_every_flipped_bit_is_found",),
    ),
    Mutant(
        "a damaged checkpoint is passed over in silence",
        "visloom/checkpoint.py",
        'say(f"checkpoint {step_name(bad)} is damaged: {why}; using step {candidate} instead")',
        "str(why)",
        (_RESUME + "test_a_damaged_newest_checkpoint_is_passed_over_aloud",),
    ),
    Mutant(
        "with all checkpoints damaged a run starts anew",
        "visloom/checkpoint.py",
        "if problems:\n            raise",
        "if problems and step is not None:\n            raise",
        (_RESUME + "test_when_all_checkpoints_are_damaged_nothing_restarts_by_itself",),
    ),
    Mutant(
        "what an interrupted process left stays",
        "visloom/checkpoint.py",
        "if match is None or not _orphan(match[3]):",
        "if match is None or match:",
        (_STORE + "test_the_first_save_sweeps",),
    ),
    Mutant(
        "a failed write leaves its remains",
        "visloom/checkpoint.py",
        "remove_tree(temporary)\n            free =",
        "free =",
        (_DISKS + "test_a_full_disk_keeps_the_checkpoint_before",),
    ),
    Mutant(
        "a failed background write is forgotten",
        "visloom/checkpoint.py",
        "self._failed = error",
        "str(error)",
        (
            "tests/faults/test_checkpoint_faults.py::test_a_failed_background_write_is_raised_at_the_next_step",
            _DISKS + "test_a_full_disk_keeps_the_checkpoint_before",
        ),
    ),
    Mutant(
        "the room that is left is told wrongly",
        "visloom/checkpoint.py",
        "{size_text(free)} is free. {kept}",
        "{size_text(needed)} is free. {kept}",
        (_DISKS + "test_a_full_disk_keeps_the_checkpoint_before",),
    ),
    # ------------------------------------------------------------------------------------------------------ kills
    Mutant(
        "an evaluation that a kill cut off is not made up for",
        "visloom/launch.py",
        "if self.ledger.evaluated.get(name, 0) < self.step:",
        "if self.ledger.evaluated.get(name, 0) < 0:",
        (
            _RESUME
            + "test_an_interrupted_run_ends_like_one_that_was_not[crash_in_evaluation-save point and evaluation]",
        ),
    ),
    # ---------------------------------------------------------------------------------------------------- signals
    Mutant(
        "a preempted run exits like a failed one",
        "visloom/errors.py",
        "exit_code = 75",
        "exit_code = 1",
        (_SIGNALS + "test_in_a_step",),
    ),
    Mutant(
        "SIGUSR1 is nobody's business",
        "visloom/signals.py",
        'names = ("SIGTERM", "SIGUSR1", "SIGINT")',
        'names = ("SIGTERM", "SIGINT")',
        (_SIGNALS + "test_in_a_step[SIGUSR1]",),
    ),
    Mutant(
        "a second SIGTERM ends the save that the first one asked for",
        "visloom/signals.py",
        'if name == "SIGINT" and self.asked == "SIGINT":',
        "if name == self.asked:",
        (_SIGNALS + "test_a_second_sigterm_while_it_saves_changes_nothing",),
    ),
    Mutant(
        "a signal does not end a wait",
        "visloom/signals.py",
        "self._waiting = False\n            raise _Wake",
        "self._waiting = False",
        (_SIGNALS + "test_in_an_evaluation[SIGTERM]",),
    ),
    Mutant(
        "half a turn is saved",
        "visloom/engine.py",
        "torch._foreach_copy_(self._buffers, self._backup)\n                raise",
        "raise",
        (_RESUME + "test_a_signal_between_two_micro_batches_leaves_no_half_turn",),
    ),
    # ------------------------------------------------------------------------------------------- data and numbers
    Mutant(
        "a JPEG that ends early passes",
        "visloom/data/images.py",
        "_check_filled(data, image, partial(_decode_cv2, name=name), _GRAY)\n",
        "\n",
        (
            "tests/unit/test_images.py::test_a_jpeg_with_its_middle_missing_is_refused_though_it_ends_like_one",
        ),
    ),
    Mutant(
        "a gradient that is not finite is taken",
        "visloom/engine.py",
        "bad = ~torch.isfinite(norm)",
        "bad = torch.zeros_like(norm, dtype=torch.bool)",
        (_NAN + "test_skip_goes_on_and_tells",),
    ),
    Mutant(
        "the samples of a bad step are not listed",
        "visloom/launch.py",
        "add_to_list(file, bad)",
        "str(bad)",
        (_NAN + "test_stop_names_the_samples_and_saves_nothing_after",),
    ),
    Mutant(
        "a rollback meets the bad step again",
        "visloom/launch.py",
        "self.engine.skipped = passed",
        "str(passed)",
        (_NAN + "test_rollback_passes_over_and_ends_finite",),
    ),
    Mutant(
        "a worker that died is not named",
        "visloom/loader.py",
        "if pid in pids:",
        "if pid < 0:",
        ("tests/unit/test_loader.py::test_a_dead_worker_stops_the_run_with_the_sample_it_was_at",),
    ),
    Mutant(
        "a worker that hangs is waited for",
        "visloom/loader.py",
        "timeout=self.host.timeout,",
        "timeout=0,",
        ("tests/unit/test_loader.py::test_a_hanging_worker_stops_the_run_with_the_sample_it_hangs_at",),
        hangs=True,
    ),
    Mutant(
        "a full /dev/shm is waited for",
        "visloom/loader.py",
        "return made if info is None else _in_shared_memory(made)",
        "return made",
        (_MEMORY + "test_a_full_shared_memory_is_named_with_what_to_do",),
    ),
    Mutant(
        "no more host memory is called a bug",
        "visloom/cli.py",
        """isinstance(error, RuntimeError) and "can't allocate memory" in str(error)""",
        "isinstance(error, RuntimeError) and not str(error)",
        (_MEMORY + "test_a_run_that_meets_its_memory_limit_says_so_and_goes_on_like_one_that_did_not",),
    ),
    Mutant(
        "a run.json that was edited by hand is believed",
        "visloom/launch.py",
        "            run=self.fixed,\n",
        "",
        (
            _RESUME
            + "test_a_run_json_that_was_edited_between_two_lives_is_refused_with_the_difference[seed: 0 -> 3]",
        ),
    ),
    Mutant(
        "a resume may become another run",
        "visloom/drive.py",
        "if refused:",
        "if refused and not refused:",
        (_RESUME + "test_a_resume_that_changes_the_run_is_told_to_branch",),
    ),
    Mutant(
        "a resume does not say what is different",
        "visloom/drive.py",
        "for line in drift(old, now):",
        "for line in drift(now, now):",
        (_RESUME + "test_a_resume_says_what_could_make_the_bits_differ",),
    ),
    Mutant(
        "two runs may share a directory",
        "visloom/rundir.py",
        "                path.mkdir()\n",
        "                path.mkdir(exist_ok=True)\n",
        (
            "tests/unit/test_rundir.py::test_many_at_the_same_moment_get_one_each",
            "tests/unit/test_rundir.py::test_threads_get_one_each",
        ),
    ),
    Mutant(
        "the lock lets a second process in",
        "visloom/rundir.py",
        "if locked is False or (",
        "if (",
        ("tests/unit/test_rundir.py::test_a_live_process_is_named_and_a_killed_one_is_succeeded",),
    ),
    # ------------------------------------------------------------------------------------------ several processes
    Mutant(
        "a batch is cut for processes before it is cut into micro-batches",
        "visloom/loader.py",
        ".shard(micro, self.accumulate).shard(self.rank, self.world)",
        ".shard(self.rank, self.world).shard(micro, self.accumulate)",
        (_MANY + "test_idle_parameters_rest_as_in_one_process",),
    ),
    Mutant(
        "every process reads the whole batch",
        "visloom/loader.py",
        ".shard(micro, self.accumulate).shard(self.rank, self.world)",
        ".shard(micro, self.accumulate)",
        (_MANY + "test_the_same_samples_at_every_step",),
    ),
    Mutant(
        "batches of an evaluation are dealt out twice",
        "visloom/evaluation.py",
        "return self.rank + step * self.world",
        "return self.rank + step",
        (_MANY + "test_an_evaluation_is_the_same_to_the_last_bit",),
    ),
    Mutant(
        "an evaluation does not count its samples",
        "visloom/evaluation.py",
        "deal.samples() if whole else None",
        "None",
        (_MANY + "test_a_sample_that_is_lost_or_seen_twice_is_noticed_by_all",),
    ),
    Mutant(
        "batch norms keep to their process",
        "visloom/dist.py",
        "        task = synchronise(task, device)\n",
        "        pass\n",
        (_MANY + "test_the_gradients_of_one_process",),
    ),
    Mutant(
        "a loss is divided by the items of its process",
        "visloom/dist.py",
        "if world().size == 1 or not torch.is_grad_enabled():",
        "if world().size:",
        (_MANY + "test_the_gradients_of_one_process",),
    ),
    Mutant(
        "every micro-batch exchanges gradients",
        "visloom/dist.py",
        "return Wrapped(call, parallel.no_sync)",
        "return Wrapped(call, nullcontext)",
        (_MANY + "test_micro_batches_but_the_last_exchange_nothing",),
    ),
    Mutant(
        "no micro-batch exchanges gradients",
        "visloom/engine.py",
        "if micro < how.accumulate - 1:",
        "if micro < how.accumulate:",
        (_TWO + "test_both_hold_the_same_weights",),
    ),
    Mutant(
        "idle parameters are not looked for",
        "visloom/dist.py",
        "find_unused_parameters=task.sparse,",
        "find_unused_parameters=False,",
        (_MANY + "test_idle_parameters_rest_as_in_one_process",),
    ),
    Mutant(
        "a checkpoint is read before the first process has written it",
        "visloom/launch.py",
        "self.checkpoints.join()\n        dist.barrier()",
        "self.checkpoints.join()",
        (_TWO + "test_both_go_back_to_the_same_checkpoint_although_it_is_still_being_written",),
    ),
    Mutant(
        "every process writes the log",
        "visloom/drive.py",
        "if not dist.world().first:\n        return Teller.silent()",
        "if not dist.world():\n        return Teller.silent()",
        (_TWO + "test_the_first_one_writes",),
    ),
    Mutant(
        "a process keeps a signal to itself",
        "visloom/signals.py",
        "if not self._alone and dist.any_rank(self.asked is not None):",
        "if not self._alone and self.asked is not None:",
        (_TWO + "test_a_signal_to_one_of_them_makes_both_leave_at_the_same_step",),
    ),
    Mutant(
        "a process is ended on its way out, and its exit code is lost",
        "visloom/signals.py",
        "ignored = leaving and number == signal.SIGTERM",
        "ignored = False",
        ("tests/distributed/test_leaving.py",),
    ),
    Mutant(
        "the launcher does not believe a process that is slow to end",
        "visloom/launcher.py",
        "_last_word(Path(folder), rank, p, rank in late) for rank, p in enumerate(started)",
        "LastWord(rank, 1) if rank in late else _last_word(Path(folder), rank, p, False)\n"
        "                for rank, p in enumerate(started)",
        ("tests/unit/test_cli_launcher.py::test_what_a_process_said_counts_though_it_is_slow_to_end",),
    ),
    Mutant(
        "sums of another number of processes are dropped",
        "visloom/meter.py",
        "if world == here.size else list(range(world))",
        "if world == here.size else []",
        (_TWO + "test_another_number_of_processes_goes_on_with_the_same_data_and_promises_no_bits",),
    ),
    Mutant(
        "the number of processes is nobody's business at a resume",
        "visloom/provenance.py",
        '"threads", "world_size", *_HOW',
        '"threads", *_HOW',
        (_TWO + "test_another_number_of_processes_goes_on_with_the_same_data_and_promises_no_bits",),
    ),
    Mutant(
        "nobody answers a roll call",
        "visloom/peers.py",
        'self.store.set(f"at/{self.rank}", json.dumps(asdict(self._place())))\n                    return',
        "return",
        (_LOST + "test_a_hung_process_is_named_with_its_line",),
    ),
    Mutant(
        "no roll is called",
        "visloom/peers.py",
        "if isinstance(error, VisloomError) or not failed_exchange(error):",
        "if isinstance(error, Exception):",
        (_LOST + "test_a_killed_process_is_named_by_the_other_one",),
    ),
    Mutant(
        "a failure is not told to the others",
        "visloom/peers.py",
        "_peers.tell_end((str(error)",
        "str((str(error)",
        (_LOST + "test_the_failure_of_one_is_its_own_to_tell",),
    ),
    Mutant(
        "a restarted job begins another run",
        "visloom/drive.py",
        "if dist.attempt():",
        "if dist.attempt() < 0:",
        (_LOST + "test_the_same_command_goes_on_with_its_run_after_a_restart",),
    ),
    Mutant(
        "a job takes up the run of another one",
        "visloom/drive.py",
        'if made.get("job") == dist.job():',
        'if made.get("job") != dist.job():',
        (_LOST + "test_the_same_command_goes_on_with_its_run_after_a_restart",),
    ),
    # --------------------------------------------------------------------------------------------------- security
    Mutant(
        "weights are unpickled whole",
        "visloom/init.py",
        "weights_only=True",
        "weights_only=False",
        ("tests/unit/test_init.py", "tests/unit/test_dangerous_calls.py"),
    ),
    Mutant(
        "arrays may hold objects",
        "visloom/data/arrays.py",
        'np.load(path, mmap_mode="r", allow_pickle=False)',
        "np.load(path, allow_pickle=True)",
        ("tests/unit/test_arrays.py::test_files_with_python_objects_are_refused_and_not_run",),
    ),
    Mutant(
        "a CIFAR batch may name anything",
        "visloom/data/cifar.py",
        'raise _Forbidden(f"the pickle asks for {module}.{name}, which no CIFAR file needs")',
        "return super().find_class(module, name)",
        ("tests/unit/test_cifar.py::test_nothing_of_a_hostile_file_is_run",),
    ),
    Mutant(
        "any module may be a kind",
        "visloom/trust.py",
        'return _public(module) and (module.split(".")[0] == "visloom" or self._own(module))',
        "return _public(module)",
        ("tests/unit/test_trust.py::test_opening_a_file_runs_nothing",),
    ),
    Mutant(
        "a picture may have any size",
        "visloom/data/images.py",
        "if width * height > max_pixels:",
        "if width * height < 0:",
        ("tests/unit/test_images.py::test_decompression_bombs_are_refused_from_the_header",),
    ),
    Mutant(
        "a settings file may ask for Python objects",
        "visloom/overlay.py",
        'if event.tag is not None and event.tag != "!":',
        'if event.tag == "!":',
        ("tests/unit/test_overlay.py::test_complaints_name_file_and_line",),
    ),
    Mutant(
        "names are HTML in the report",
        "visloom/report/render.py",
        "autoescape=True,",
        "autoescape=False,",
        ("tests/unit/test_report.py::test_hostile_names_are_escaped",),
    ),
    Mutant(
        "names that no eye can see reach the report",
        "visloom/report/render.py",
        "safe(value) if isinstance(value, str)",
        "value if isinstance(value, str)",
        ("tests/unit/test_report.py::test_hostile_names_are_escaped",),
    ),
    Mutant(
        "names of samples reach into the terminal of a run",
        "visloom/log.py",
        '[(start, "warn"), (safe(line), "")]',
        '[(start, "warn"), (line, "")]',
        ("tests/unit/test_log.py::test_on_a_terminal_the_block_is_live_and_gone_at_the_end",),
    ),
    Mutant(
        "messages reach into the terminal",
        "visloom/cli.py",
        "for line in map(safe, message.splitlines()):",
        "for line in message.splitlines():",
        ("tests/unit/test_cli.py::test_messages_cannot_reach_into_the_terminal",),
    ),
    # ---------------------------------------------------------------------------------------------- vector code
    Mutant(
        "pictures of other channels reach the kernels",
        "visloom/winograd.py",
        "and image.shape[1] == weight.shape[1]",
        "and image.shape[1] <= weight.shape[1]",
        ("tests/unit/test_winograd.py::test_sizes_that_do_not_fit_are_refused",),
    ),
    Mutant(
        "the low bits of a mean are lost",
        "visloom/nets/fused_norm_kernels.py",
        "return near, b.fsub(value, b.fpext(near, _DOUBLES))",
        "return near, _double(0)",
        ("tests/unit/test_fused_norm.py::test_answers_gradients_and_statistics_equal_those_of_float64",),
    ),
    Mutant(
        "threads leave out a part",
        "visloom/vector.py",
        "for cut in pairwise(cuts[1:])]",
        "for cut in pairwise(cuts[2:])]",
        ("tests/unit/test_vector.py::test_threads_share_a_range_without_gap_or_overlap",),
    ),
    Mutant(
        "an error leaves threads at work",
        "visloom/vector.py",
        "wait(others)  #",
        "len(others)  #",
        ("tests/unit/test_vector.py::test_an_error_in_a_thread_is_raised_when_all_have_ended",),
    ),
    Mutant(
        "a matrix is multiplied the short way for many rounds",
        "visloom/muon.py",
        "and steps <= _FEW and",
        "and steps <= 99 and",
        ("tests/unit/test_muon.py::test_many_rounds_of_a_matrix_of_low_rank_stay_small",),
    ),
    Mutant(
        "keys begin a block one step too late",
        "visloom/keys.py",
        "numbers = np.arange(256, dtype=np.uint64) + np.uint64(number)",
        "numbers = np.arange(256, dtype=np.uint64) + np.uint64(number + 1)",
        ("tests/property/test_streams.py::test_keys_counted_in_blocks_are_those_counted_one_by_one",),
    ),
)
