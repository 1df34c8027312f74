"""The benchmark's session in Flower's simulation engine: run by simulation.py in a Python that has flwr[simulation].

`python flower_simulation.py SHARES.npz SETTINGS` prints {"seconds": …, "accuracy": …}. SETTINGS is JSON: members,
rounds, batch_size, steps, learning_rate, features. One torch thread and one CPU per client. PYTHONPATH: this folder.
"""

import json
import os
import sys
import time

import numpy as np
from flower_client import Client
from flwr.client import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.simulation import run_simulation


def main():
    path, settings = os.path.abspath(sys.argv[1]), json.loads(sys.argv[2])
    accuracies = []

    def aggregated(results):
        accuracies.append(sum(count * metrics["accuracy"] for count, metrics in results) / sum(n for n, _ in results))
        return {"accuracy": accuracies[-1]}

    def client_of(context):
        return Client(int(context.node_config["partition-id"]), path, settings).to_client()

    def server_of(_context):
        start = [np.zeros((10, settings["features"]), np.float32), np.zeros(10, np.float32)]
        strategy = FedAvg(
            fraction_fit=1.0, fraction_evaluate=1.0, initial_parameters=ndarrays_to_parameters(start),
            min_available_clients=settings["members"], evaluate_metrics_aggregation_fn=aggregated,
        )  # fmt: skip
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=settings["rounds"]))

    started = time.perf_counter()
    run_simulation(
        server_app=ServerApp(server_fn=server_of),
        client_app=ClientApp(client_fn=client_of),
        num_supernodes=settings["members"],
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    print(json.dumps({"seconds": time.perf_counter() - started, "accuracy": accuracies[-1]}))


if __name__ == "__main__":
    main()
