"""What a worker can say of names by what it knows of their models, without opening any."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from jobs.catalog import ModelVersion
from jobs.errors import ModelUnavailable
from jobs.published import Published


@dataclass
class Standing:
    """Who can be had, who cannot and why, and of whom nobody knows yet."""

    versions: dict[str, ModelVersion] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    loading: set[str] = field(default_factory=set)

    def add_whole(self, model: Published, quantization: str, slots: int) -> None:
        """A published model that anybody can serve."""
        self.versions[model.version.name] = replace(model.version, quantization=quantization, slots=slots)

    def add_adapter(self, model: Published, base_digests: Collection[str]) -> None:
        """A published adapter, which stands as its base does; `base_digests`: by which that is known."""
        name, base = model.version.name, str(model.base)
        if base in self.loading:
            self.loading.add(name)
            return
        try:
            over = self._base(base)
            _check_lineage(model, base, base_digests)
        except ModelUnavailable as error:
            self.failed[name] = str(error)
        else:
            self.versions[name] = replace(model.version, quantization=over.quantization, slots=over.slots)

    def _base(self, name: str) -> ModelVersion:
        if name in self.failed:
            raise ModelUnavailable(f"its base model '{name}' is not available: {self.failed[name]}")
        if name not in self.versions:
            raise ModelUnavailable(f"this worker does not have its base model '{name}': add it to MODELS.")
        return self.versions[name]


def _check_lineage(model: Published, base: str, digests: Collection[str]) -> None:
    """See that an adapter speaks over the numbers that it was trained over."""
    trained_over = model.lineage.get("base_digest")
    if not digests:
        raise ModelUnavailable(f"its base model '{base}' is an adapter itself.")
    if trained_over is not None and trained_over not in digests:
        raise ModelUnavailable(
            f"it was trained over other weights of '{base}' than this worker has (their digest begins with"
            f" {str(trained_over)[:12]}): let MODELS name those, or train it again."
        )
