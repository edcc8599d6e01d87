import subprocess
import sys

HEAVY = ("torch", "transformers", "datasets", "pandas", "sklearn", "pyarrow")


def test_importing_the_data_package_loads_nothing_heavy():
    code = f"import sys, lpft.data; print([m for m in {HEAVY} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


def test_every_public_name_is_there():
    import lpft.data

    assert len(lpft.data.__all__) == len(set(lpft.data.__all__)) > 20
    assert all(hasattr(lpft.data, name) for name in lpft.data.__all__)
