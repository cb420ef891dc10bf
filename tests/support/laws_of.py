"""Which laws belong to a file of the library: what `mutation` puts a mutant before."""

# of every file, as cases of project/test_architecture
HOUSE = (
    "test_what_compares_by_value_cannot_be_changed", "test_what_is_never_written_to_is_frozen",
    "test_a_promise_is_abstract",
)  # fmt: skip

# of a file, or of a folder: the longest beginning of its path that stands here, the most telling laws first
LAWS: dict[str, tuple[str, ...]] = {
    "solvers/grid": ("solvers/test_conversion.py", "solvers/test_plan.py", "solvers/test_preconditioning.py"),
    "solvers/grid_warnings": ("solvers/test_grid_warnings.py",),
    "solvers/process": ("solvers/test_conversion.py", "solvers/test_coefficients.py"),
    "solvers/prediction": (
        "solvers/test_conversion.py", "solvers/test_flows_elsewhere.py", "solvers/test_laws.py",
    ),
    "solvers/preconditioning": ("solvers/test_preconditioning.py", "solvers/test_networks_elsewhere.py"),
    "solvers/drift": ("solvers/test_stochastic_flow.py", "solvers/test_interpolants.py"),
    "solvers/interpolant": ("solvers/test_interpolants.py", "solvers/test_conversion.py"),
    "solvers/two_heads": ("solvers/test_interpolants.py",),
    "solvers/on_process": ("solvers/test_on_process.py",),
    "solvers/poisson_flow": ("solvers/test_poisson_flow.py",),
    "solvers/noise": ("solvers/test_noise.py", "solvers/test_recover.py", "solvers/test_sde.py"),
    "solvers/brownian": ("solvers/test_brownian.py",),
    "solvers/path": ("solvers/test_brownian.py", "solvers/test_sde.py"),
    "solvers/inverse": ("solvers/test_reversible.py",),
    "solvers/coefficient_tensor": ("adjoint/test_coefficients_gradient.py",),
    "solvers/model": (
        "solvers/test_networks.py", "project/test_beginners.py", "solvers/test_laws.py", "adjoint/test_brought.py",
        "adjoint/test_never_silent.py",
    ),
    "solvers/calling": (
        "solvers/test_networks.py", "solvers/test_flows_elsewhere.py", "solvers/test_checking.py",
    ),
    "solvers/labels": (
        "solvers/test_networks.py", "solvers/test_networks_elsewhere.py", "solvers/test_checking.py",
    ),
    "solvers/classifier_free": (
        "solvers/test_networks.py", "solvers/test_learned_variance.py", "adjoint/test_tree_states.py",
        "adjoint/test_coefficients_gradient.py",
    ),
    "solvers/per_step": ("solvers/test_networks.py", "solvers/test_checking.py"),
    "solvers/checking": ("solvers/test_checking.py", "project/test_beginners.py"),
    "solvers/network_faults": ("solvers/test_checking.py", "project/test_beginners.py"),
    "solvers/diagnosis": ("project/test_beginners.py", "solvers/test_networks.py"),
    "solvers/kinds": ("project/test_beginners.py",),
    "solvers/packing": ("adjoint/test_tree_states.py", "solvers/test_networks.py"),
    "solvers/opening": (
        "adjoint/test_in_place.py", "adjoint/test_tree_states.py", "solvers/test_split.py",
        "project/test_beginners.py",
    ),
    "solvers/network_calls": (
        "adjoint/test_wrapped_networks.py", "adjoint/test_in_place.py", "adjoint/test_finite.py",
    ),
    "solvers/modules_behind": ("adjoint/test_wrapped_networks.py", "adjoint/test_never_silent.py"),
    "solvers/toy": ("solvers/test_toy.py",),
    "solvers/endpoint": ("solvers/test_endpoint.py", "solvers/test_conversion.py"),
    "solvers/neural": ("solvers/test_neural.py",),
    "solvers/phase_space": ("solvers/test_phase_space.py",),
    "solvers/loop": (
        "solvers/test_networks.py", "solvers/test_split.py", "adjoint/test_func.py", "adjoint/test_generated.py",
    ),
    "solvers/readings/recover": ("solvers/test_recover.py",),
    "solvers/readings/transition": ("solvers/test_transitions.py",),
    "solvers/readings/expansion": ("solvers/test_coefficients.py", "solvers/test_sde.py", "solvers/test_plan.py"),
    "solvers/readings": ("solvers/test_reversible.py", "solvers/test_sde_order.py", "solvers/test_plan.py"),
    "solvers/methods/around/on_data": ("solvers/test_on_data.py",),
    "solvers/methods/adaptive/accepted": ("solvers/test_adaptive.py", "solvers/test_reversible.py"),
    "solvers/methods/adaptive/embedded": ("solvers/test_adaptive.py",),
    "solvers/methods/adaptive/exponential_heun": ("solvers/test_reversible.py",),
    "solvers/methods/adaptive/improved_euler": ("solvers/test_adaptive_sde.py", "solvers/test_order.py"),
    "solvers/methods/adaptive/search": ("solvers/test_adaptive.py", "solvers/test_adaptive_sde.py"),
    "solvers/methods/adaptive/side_by_side": ("solvers/test_adaptive.py",),
    "solvers/methods/adaptive/step_control": ("solvers/test_adaptive.py",),
    "adjoint/density/ito": ("adjoint/density/test_ito.py", "adjoint/density/test_superpose.py"),
    "adjoint/density/superposition": ("adjoint/density/test_superpose.py",),
    "solvers/methods/flow_sde": ("solvers/test_transitions.py", "solvers/test_sde_order.py", "solvers/test_order.py"),
    "solvers/methods/stochastic_flow": ("solvers/test_stochastic_flow.py", "solvers/test_interpolants.py"),
    "solvers/methods/runge_kutta": ("solvers/test_coefficients.py", "solvers/test_order.py"),
    "solvers/methods/hybrid_heun": ("solvers/test_endpoint.py", "solvers/test_sde_order.py"),
    "solvers/methods/mrs": ("solvers/test_endpoint.py", "solvers/test_order.py"),
    "solvers/methods/edm_pec": ("solvers/test_order.py", "solvers/test_plan.py"),
    "solvers/methods/reversible/two_state": ("solvers/test_reversible.py", "solvers/test_order.py"),
    "solvers/methods/reversible/coupled": ("solvers/test_reversible.py", "solvers/test_order.py"),
    "solvers/methods": (
        "solvers/test_coefficients.py", "solvers/test_sde.py", "solvers/test_order.py", "solvers/test_sde_order.py",
        "solvers/test_plan.py",
    ),
    "solvers": (
        "solvers/test_plan.py", "solvers/test_split.py", "solvers/test_laws.py", "solvers/test_coefficients.py",
        "adjoint/test_generated.py",
    ),
    "adjoint/continuous": ("adjoint/continuous/test_closed_forms.py", "adjoint/continuous/test_continuous.py"),
    "adjoint/density/sampler_map": ("adjoint/density/test_sampler_map.py",),
    "adjoint/density/dequantise": ("adjoint/density/test_dequantise.py",),
    "adjoint/density": ("adjoint/density/test_log_prob.py", "adjoint/density/test_sampler_map.py"),
    "adjoint/bridges": ("adjoint/bridges/test_bridges.py",),
    "adjoint/auditing": ("adjoint/test_audit.py",),
    "adjoint/jacobian_free": ("adjoint/test_jacobian_free.py",),
    "adjoint/skip_straight": ("adjoint/continuous/test_closed_forms.py", "adjoint/test_enrolment.py"),
    "adjoint/replay/schedule": ("adjoint/test_keep.py",),
    "adjoint/checkpoint": ("adjoint/test_keep.py", "adjoint/test_generated.py", "adjoint/test_gradient.py"),
    "adjoint/replay/snapshot": (
        "adjoint/test_wrapped_networks.py", "adjoint/test_never_silent.py", "adjoint/test_brought.py",
    ),
    "adjoint/replay/segmented": ("adjoint/test_keep.py", "adjoint/test_generated.py", "adjoint/test_never_silent.py"),
    "adjoint/reversible": ("solvers/test_reversible.py", "adjoint/test_generated.py", "adjoint/test_brought.py"),
    "adjoint/arguments": ("project/test_beginners.py", "adjoint/test_gradient.py"),
    "adjoint/given": (
        "adjoint/test_tree_states.py", "adjoint/test_generated.py",
        "adjoint/test_in_place.py",
    ),
    "adjoint/chosen": ("adjoint/test_gradient.py", "adjoint/test_never_silent.py", "adjoint/test_reach.py"),
    "adjoint/watching": ("adjoint/test_in_place.py", "adjoint/test_finite.py", "adjoint/test_trajectory.py"),
    "adjoint/not_finite": ("adjoint/test_finite.py", "adjoint/test_in_place.py", "adjoint/test_tree_states.py"),
    "adjoint/replay/fingerprint": ("adjoint/test_repeats.py", "adjoint/test_reach.py"),
    "adjoint/replay/entrance": (
        "adjoint/test_contract.py", "adjoint/test_reach.py", "adjoint/test_wrapped_networks.py",
    ),
    "adjoint/replay/handed": ("adjoint/test_contract.py", "adjoint/test_handing_back.py"),
    "adjoint/replay/hooks": ("adjoint/test_handing_back.py", "adjoint/test_wrapped_networks.py"),
    "adjoint/left_out": ("adjoint/test_handing_back.py",),
    "adjoint/replay/transparent": ("adjoint/test_reach.py", "adjoint/test_wrapped_networks.py", "adjoint/test_keep.py"),
    "adjoint/replay/turns": ("adjoint/test_wrapped_networks.py", "adjoint/test_brought.py"),
    "adjoint/replay/wrappers": (
        "adjoint/test_wrapped_networks.py", "adjoint/test_compile.py", "adjoint/test_generated_distributed.py",
    ),
    "adjoint/replay/graph_walk": ("adjoint/test_reach.py", "adjoint/test_brought.py", "adjoint/test_never_silent.py"),
    "adjoint/replay/live_call": (
        "adjoint/test_reach.py", "adjoint/test_contract.py", "adjoint/test_wrapped_networks.py",
    ),
    "adjoint/replay/call_state": (
        "adjoint/test_brought.py", "adjoint/test_wrapped_networks.py", "adjoint/test_repeats.py",
    ),
    "adjoint": (
        "adjoint/test_generated.py", "adjoint/test_never_silent.py", "adjoint/test_reach.py",
        "adjoint/test_contract.py", "adjoint/test_handing_back.py", "adjoint/test_wrapped_networks.py",
        "adjoint/test_brought.py", "adjoint/test_gradient.py", "adjoint/test_trajectory.py", "adjoint/test_func.py",
    ),
    "guidance/measurements": ("guidance/measurements/test_operators.py",),
    "guidance/guides": (
        "guidance/guides/test_guides_exact.py", "guidance/guides/test_guide.py", "guidance/guides/test_context.py",
        "guidance/guides/test_lookahead.py", "guidance/guides/test_defaults.py", "guidance/guides/test_steer_finite.py",
    ),
    "guidance/guides/state_limits": ("guidance/guides/test_defaults.py", "guidance/guides/test_steer_finite.py"),
    "guidance/rewards/clip": ("guidance/rewards/test_reward_clip.py",),
    "guidance/rewards": ("guidance/rewards/test_rewards.py",),
    "guidance/latents": ("guidance/latents/test_optimise.py", "guidance/latents/test_endtoend.py"),
    "guidance/particles": ("guidance/particles/test_particles.py",),
    "guidance/recognition": (
        "guidance/recognition/test_recogniser.py", "guidance/recognition/test_calibration.py",
        "guidance/recognition/test_morph_metrics.py", "guidance/recognition/test_faces.py",
    ),
    "guidance/morphs": (
        "guidance/morphs/test_morph_strategies.py", "guidance/morphs/test_morph_losses.py",
        "guidance/morphs/test_blends.py", "guidance/morphs/test_encoders.py",
    ),
    "guidance/edit": ("guidance/edit/test_edit.py", "guidance/edit/test_rf_inversion.py"),
    "guidance/adversarial/rounding": ("guidance/adversarial/test_balls.py",),
    "guidance/adversarial/balls": ("guidance/adversarial/test_balls.py", "guidance/adversarial/test_attack.py"),
    "guidance/adversarial/threat_model": (
        "guidance/adversarial/test_balls.py", "guidance/adversarial/test_stepping.py",
    ),
    "guidance/adversarial/auto_step": ("guidance/adversarial/test_stepping.py",),
    "guidance/adversarial/stepping": ("guidance/adversarial/test_stepping.py",),
    "guidance/adversarial/best": ("guidance/adversarial/test_stepping.py", "guidance/adversarial/test_attack.py"),
    "guidance/adversarial/aims": ("guidance/adversarial/test_robust_accuracy.py",),
    "guidance/adversarial/defences": ("guidance/adversarial/test_robust_accuracy.py",),
    "guidance/adversarial/evasion": ("guidance/adversarial/test_robust_accuracy.py",),
    "guidance/adversarial/robustness": ("guidance/adversarial/test_robust_accuracy.py",),
    "guidance/adversarial/intervals": ("guidance/adversarial/test_certify.py",),
    "guidance/adversarial/smoothing": ("guidance/adversarial/test_certify.py",),
    "guidance/adversarial/protections": ("guidance/adversarial/test_protections.py",),
    "guidance/adversarial/regeneration": ("guidance/adversarial/test_regeneration.py",),
    "guidance/adversarial": ("guidance/adversarial/test_attack.py", "guidance/adversarial/test_stepping.py"),
    "guidance/objectives": (
        "guidance/objectives/test_objectives.py", "guidance/objectives/test_direct_gradients.py",
        "guidance/objectives/test_reward_functions.py",
    ),
    "guidance/train": (
        "guidance/train/test_trainer.py", "guidance/train/test_checkpoints.py", "guidance/train/test_broken_rewards.py",
        "guidance/train/test_resume.py", "guidance/train/test_adapter.py",
    ),
    "guidance/loss": ("guidance/latents/test_optimise.py", "guidance/adversarial/test_attack.py"),
}  # fmt: skip


def laws(file: str) -> tuple[str, ...]:
    """The tests of a file."""
    fitting = [start for start in LAWS if file.startswith(start)]
    return (*LAWS[max(fitting, key=len)], *(f"project/test_architecture.py::{law}[{file}]" for law in HOUSE))
