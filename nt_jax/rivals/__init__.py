"""The methods that NeuronTune is compared with: DINM, SCANS, CAVGAN and LoRA, each in one file."""
