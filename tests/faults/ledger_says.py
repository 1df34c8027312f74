"""What the ledger has of a session, as JSON: `python -m tests.faults.ledger_says SESSION`.

Reading verifies each member's hash chain, and that no record of it is missing.
"""

import json
import sys
from pathlib import Path

from ledger import History
from node.agreement import open_session

if __name__ == "__main__":
    opened = open_session(Path(sys.argv[1]), None)
    with History(opened.ledger, opened.session_id) as history:
        verified = history.verify()
        rows = history.records(gas=False)
    rounds = {int(member): own["round"].tolist() for member, own in rows.groupby("member")}
    mixed = {int(member): own["round"].tolist() for member, own in rows[rows["complete"]].groupby("member")}
    print(json.dumps({"verified": verified, "rounds": rounds, "mixed": mixed}))
