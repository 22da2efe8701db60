"""Make `cohen2019-facts.csv` again, from the published logs.

    python notebooks/data/make_facts.py [FOLDER]

FOLDER holds cohen2019/cifar10/…; without it the logs are downloaded and kept.
"""

import sys
from pathlib import Path

from lipsmooth.facts import collect_facts, write_facts

if __name__ == "__main__":
    path = Path(__file__).with_name("cohen2019-facts.csv")
    write_facts(path, collect_facts(*sys.argv[1:]))
    print(f"wrote {path}")
