"""ExecuTorch programs: made by PT2E and XNNPACK, run by ExecuTorch."""
