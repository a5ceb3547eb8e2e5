"""OpenVINO models: made by NNCF, run by OpenVINO."""
