"""Generated runs: any network, inputs, plan and strategy, judged against a plain loop of their own."""
