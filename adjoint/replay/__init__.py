"""A run that is kept and made again: what strategies that replay network calls are made of. Knows no strategy.

Begin with `tape`, one run between its forward and its backward pass, and `transpose`, which walks the plan backwards.

    the run          rollout, bound_model, cond, parameters, wrappers
    kept             recorded (every state), segmented and schedule (a few), region (by autograd's own graph)
    one call         entrance (what enters stands detached), live_call, graph_walk (what it reached)
    backwards        transpose, sensitivity (sums of gradients), handed and hooks (each given back once), autograd_node
    made as it was   call_state and turns (random numbers, autocast), snapshot, inputs, plain_state, transparent,
                     fingerprint (the same output)
"""
