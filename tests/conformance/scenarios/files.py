"""`client.files`."""

from openai import BadRequestError, NotFoundError

from tests.conformance.scenarios.registry import Server, refused, scenario


@scenario
def a_file_is_uploaded_read_and_deleted(server: Server) -> None:
    files = server.strict.files
    made = files.create(
        file=("notes é.txt", b"one\ntwo\n"),
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert (made.filename, made.bytes, made.purpose) == ("notes é.txt", 8, "user_data")
    assert (made.status, made.expires_at) == ("processed", made.created_at + 3600)
    assert files.retrieve(made.id) == made
    assert files.content(made.id).read() == b"one\ntwo\n"
    gone = files.delete(made.id)
    assert (gone.id, gone.deleted) == (made.id, True)
    with refused(NotFoundError, None, "id"):
        files.retrieve(made.id)
    with refused(NotFoundError, None, "id"):
        files.content(made.id)


@scenario
def files_are_listed_page_by_page_in_both_orders(server: Server) -> None:
    files = server.strict.files
    made = [files.create(file=(f"{n}.png", b"x"), purpose="vision").id for n in range(5)]
    page = files.list(purpose="vision", limit=2, order="asc")
    assert ([file.id for file in page.data], page.has_more) == (made[:2], True)
    assert [file.id for file in page.get_next_page().data] == made[2:4]
    assert [file.id for file in files.list(purpose="vision", limit=2, order="asc")] == made
    assert [file.id for file in files.list(purpose="vision", limit=3)] == made[::-1]
    assert [file.id for file in files.list(purpose="vision", after=made[1])] == [made[0]]
    with refused(BadRequestError, "integer_below_min_value", "limit"):
        files.list(limit=0)
    with refused(NotFoundError, None, "after"):
        files.list(after="file-none")


@scenario
def a_file_is_waited_for_until_it_is_read(server: Server) -> None:
    files = server.strict.files
    good = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    read = files.create(file=("good.jsonl", good * 3), purpose="fine-tune")
    wrong = files.create(file=("wrong.jsonl", b"no JSON\n"), purpose="batch")
    assert files.wait_for_processing(read.id, poll_interval=0.1).status == "processed"
    done = files.wait_for_processing(wrong.id, poll_interval=0.1)
    assert done.status == "error"
    assert "line 1" in str(done.status_details).lower()
