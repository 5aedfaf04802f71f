"""What several quantizing passes need: scales, units, GPTQ."""
