"""The forward pass of a chat model, with one explicit scale for each MLP neuron."""
