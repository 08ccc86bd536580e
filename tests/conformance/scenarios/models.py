"""`client.models`."""

from openai import NotFoundError, PermissionDeniedError

from tests.conformance.scenarios.registry import Server, refused, scenario


@scenario
def models_are_listed_and_retrieved_by_names_with_colons_and_slashes(server: Server) -> None:
    listed = {model.id: model for model in server.strict.models.list()}
    assert {"starter", "lab/chatty:v1"} <= set(listed)
    for name, model in listed.items():
        if name != server.fine_tuned:  # which another scenario deletes meanwhile
            assert server.strict.models.retrieve(name) == model
    with refused(NotFoundError, "model_not_found", "model"):
        server.strict.models.retrieve("ft:starter:nobody:x:1/2")


@scenario
def a_fine_tuned_model_is_deleted_and_no_other(server: Server) -> None:
    gone = server.strict.models.delete(server.fine_tuned)
    assert (gone.id, gone.object, gone.deleted) == (server.fine_tuned, "model", True)
    with refused(NotFoundError, "model_not_found", "model"):
        server.strict.models.delete(server.fine_tuned)
    with refused(PermissionDeniedError, "model_not_deletable", "model"):
        server.strict.models.delete("lab/chatty:v1")
