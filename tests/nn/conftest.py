"""A marker for tests on real models, whose packages are fetched separately."""


def pytest_configure(config):
    config.addinivalue_line("markers", "models: needs the weights of a real model in an installed package; skips where it is absent")
