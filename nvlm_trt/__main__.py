"""``python -m nvlm_trt`` is ``nvlm-trt``."""

from nvlm_trt.cli import main

if __name__ == "__main__":
    main()
