"""The methods that NeuronTune is compared with, each in one file."""
