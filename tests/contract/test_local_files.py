"""The local runtime's file routes beyond the plain ones: forms, signed URLs, compression, Edit, and hostile trees.

Numbers in docstrings are sections of the wire contract.
"""

from __future__ import annotations

import base64
import gzip
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from sandbox_tools.local.encodings import chosen_encoding, unpack
from sandbox_tools.local.web import RequestError
from sandbox_tools.wire.files import SignedOperation, file_signature
from tests.local.service import Box, LocalServer, wait_for

HOME = "/root/workspace"
RAW = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def box(local_server: LocalServer) -> Iterator[Box]:
    """One sandbox for this module: its tests do not disturb each other."""
    with local_server.sandbox(envVars={"FROM_CREATE": "1"}) as sandbox:
        yield sandbox


def error_of(answer: httpx.Response) -> str:
    message: str = answer.json()["message"]
    return message


def rpc(box: Box, method: str, **message: Any) -> httpx.Response:
    return box.rpc(f"filesystem.Filesystem/{method}", message)


class TestForms:
    """3.4, quirk 40."""

    def post(self, box: Box, files: Any, **params: str) -> httpx.Response:
        return box.http.post("/files", params=params, files=files)

    @pytest.mark.parametrize("path", ["form", "form/", f"{HOME}/form", "~/form", "link"])
    def test_a_path_that_is_a_directory_gets_the_file(self, box: Box, path: str) -> None:
        box.sh("rm -rf form; mkdir -p form; ln -sfn form link")
        answer = self.post(box, {"file": ("hello.txt", b"in a directory")}, path=path)
        assert (answer.status_code, answer.json()[0]["name"]) == (200, "hello.txt")
        assert box.run("cat", "form/hello.txt").stdout == "in a directory"

    def test_a_path_that_ends_like_a_directory_makes_one(self, box: Box) -> None:
        answer = self.post(box, {"file": ("a/b.txt", b"x")}, path="/tmp/new-form/")
        assert answer.json() == [{"path": "/tmp/new-form/a/b.txt", "name": "b.txt", "type": "file"}]

    def test_another_path_is_the_file(self, box: Box) -> None:
        answer = self.post(box, {"file": ("ignored.txt", b"whole path")}, path="/tmp/form-file")
        assert answer.json() == [{"path": "/tmp/form-file", "name": "form-file", "type": "file"}]
        assert box.run("cat", "/tmp/form-file").stdout == "whole path"

    def test_without_a_path_the_filename_is_it(self, box: Box) -> None:
        files = [("file", ("/tmp/f1", b"1")), ("note", ("/tmp/f2", b"2")), ("file", ("~/f é.txt", b"3"))]
        answer = self.post(box, files)
        assert [entry["path"] for entry in answer.json()] == ["/tmp/f1", f"{HOME}/f é.txt"]
        assert box.sh("cat /tmp/f1 'f é.txt'; ls /tmp/f2").stdout == "13"

    def test_a_big_file_is_streamed_and_whole(self, box: Box) -> None:
        data = bytes(range(256)) * 40_000 + b"\r\n--"
        assert self.post(box, {"file": ("/tmp/big", data)}).status_code == 200
        assert box.http.get("/file", params={"path": "/tmp/big"}).content == data

    def test_a_packed_form_is_unpacked(self, box: Box) -> None:
        body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="/tmp/packed"\r\n\r\nx\r\n--b--\r\n'
        headers = {"Content-Type": "multipart/form-data; boundary=b", "Content-Encoding": "gzip"}
        assert box.http.post("/files", content=gzip.compress(body), headers=headers).status_code == 200
        assert box.run("cat", "/tmp/packed").stdout == "x"

    @pytest.mark.parametrize(
        ("content_type", "body"),
        [
            ("multipart/form-data", b"--b--\r\n"),
            ("multipart/form-data; boundary=" + "b" * 5000, b""),
            ("multipart/form-data; boundary=b", b""),
            ("multipart/form-data; boundary=b", b"no form"),
            (
                "multipart/form-data; boundary=b",
                b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--',
            ),
            (
                "multipart/form-data; boundary=b",
                b'--b\r\nContent-Disposition: form-data; name="file"; filename="/tmp/cut"\r\n\r\nnot whole',
            ),
            (
                "multipart/form-data; boundary=b",
                b'--b\r\nContent-Disposition: form-data; name="file"; filename="\xff"\r\n\r\nx\r\n--b--\r\n',
            ),
            (
                "multipart/form-data; boundary=b",
                b'--b\r\nContent-Disposition: form-data; name="other"; filename="/tmp/o"\r\n\r\nx\r\n--b--\r\n',
            ),
            ("text/plain", b"x"),
        ],
    )
    def test_what_is_no_form_with_a_file_is_400(self, box: Box, content_type: str, body: bytes) -> None:
        answer = box.http.post("/files", content=body, headers={"Content-Type": content_type})
        assert answer.status_code == 400
        assert box.sh("ls /tmp/cut /tmp/o").stdout == ""

    def test_the_head_of_a_part_and_the_number_of_parts_are_bounded(self, box: Box) -> None:
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        long = b'--b\r\nContent-Disposition: form-data; name="file"; filename="' + b"x" * 100_000
        assert box.http.post("/files", content=long, headers=headers).status_code in (400, 413)
        many = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n\r\n' * 1001 + b"--b--\r\n"
        assert box.http.post("/files", content=many, headers=headers).status_code == 413

    @pytest.mark.parametrize("name", ["../up", "a/../../up", ".."])
    def test_a_filename_does_not_lead_upwards(self, box: Box, name: str) -> None:
        assert self.post(box, {"file": (name, b"x")}, path="/tmp/").status_code == 400

    def test_several_files_need_a_directory(self, box: Box) -> None:
        files = [("file", ("1", b"1")), ("file", ("2", b"2"))]
        assert len(self.post(box, files, path="/tmp/several/").json()) == 2
        answer = self.post(box, files, path="/tmp/one-file")
        assert (answer.status_code, error_of(answer)) == (400, "path names one file, and the form has several")


class TestSignedUrls:
    """5.3."""

    @pytest.mark.parametrize(
        ("path", "operation", "username", "expiration", "signature"),
        [
            ("/root/workspace/a.txt", "read", "", None, "v1_nMwPZStdVBKdffd0ePQdyR+okKcbWdptGEqUhiHnCE4"),
            ("/root/workspace/a.txt", "write", "root", "1800000000", "v1_ygRJu0eCznm2Qbzn/R9D8g9kOYw2pFDCbqLicwSZBDQ"),
            ("", "write", "", None, "v1_cLq4j/WtssvMsUDK45dksx4F8EKFtIj79hSIY3HKjkU"),
        ],
    )
    def test_the_vectors_of_the_contract(
        self, path: str, operation: SignedOperation, username: str, expiration: str | None, signature: str
    ) -> None:
        assert file_signature(path, operation, username, "tok-123", expiration=expiration) == signature

    def query(
        self, box: Box, path: str, operation: SignedOperation, *, expires_in_s: int | None = None, username: str = ""
    ) -> dict[str, str]:
        expiration = None if expires_in_s is None else str(int(time.time()) + expires_in_s)
        signature = file_signature(path, operation, username, box.record["envdAccessToken"], expiration=expiration)
        query = {"path": path, "username": username, "signature": signature, "signature_expiration": expiration or ""}
        return {name: value for name, value in query.items() if value}

    @pytest.fixture
    def anyone(self, box: Box) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=box.record["envdUrl"], timeout=30) as client:
            yield client

    @pytest.mark.parametrize("expires_in_s", [None, 60])
    @pytest.mark.parametrize("username", ["", "user"])
    def test_a_file_is_written_and_read_without_a_token(
        self, box: Box, anyone: httpx.Client, expires_in_s: int | None, username: str
    ) -> None:
        for name in ("/tmp/signed é+&.txt", "~/signed"):
            write = self.query(box, name, "write", expires_in_s=expires_in_s, username=username)
            assert anyone.post("/files", params=write, content=b"signed", headers=RAW).status_code == 200
            assert anyone.post("/files", params=write, files={"file": ("x", b"form")}).status_code == 200
            read = self.query(box, name, "read", expires_in_s=expires_in_s, username=username)
            assert anyone.get("/files", params=read).content == b"form"
            assert anyone.get("/files", params=read, headers={"Range": "bytes=1-2"}).content == b"or"

    def test_a_signature_is_for_one_path_one_operation_and_one_time(self, box: Box, anyone: httpx.Client) -> None:
        box.http.post("/file", params={"path": "/tmp/signed"}, content=b"secret")
        good = self.query(box, "/tmp/signed", "read", expires_in_s=60)
        assert anyone.get("/files", params=good).status_code == 200
        later = str(int(good["signature_expiration"]) + 1)
        for change in (
            {"path": "/tmp/signed2"},
            {"path": "/tmp/../tmp/signed"},
            {"username": "user"},
            {"signature_expiration": later},
            {"signature_expiration": None},
            {"signature": good["signature"][:-1]},
            {"signature": ""},
            {"signature": None},
            {"signature": "v1_é"},
        ):
            query = {name: value for name, value in {**good, **change}.items() if value is not None}
            assert anyone.get("/files", params=query).status_code == 401, change
        assert anyone.post("/files", params=good, content=b"x", headers=RAW).status_code == 401
        assert anyone.get("/files", params=[("path", "/etc/passwd"), *good.items()]).status_code == 401
        for route in ("/file", "/files/content"):
            assert anyone.get(route, params=good).status_code == 401

    @pytest.mark.parametrize("expiration", ["3600", "0", "-1", "soon", "1e99", "9" * 20])
    def test_a_time_that_is_past_or_none_is_401(self, box: Box, anyone: httpx.Client, expiration: str) -> None:
        """Quirk 42: vendors' SDKs sign what the caller says; a duration was 1970."""
        token = box.record["envdAccessToken"]
        signature = file_signature("/tmp/signed", "read", "", token, expiration=expiration)
        query = {"path": "/tmp/signed", "signature": signature, "signature_expiration": expiration}
        answer = anyone.get("/files", params=query)
        assert (answer.status_code, "expired" in error_of(answer)) == (401, True)

    def test_a_token_must_match_and_then_the_signature_is_ignored(self, box: Box, anyone: httpx.Client) -> None:
        query = {"path": "/tmp/signed", "signature": "wrong"}
        assert box.http.get("/files", params=query).status_code == 200
        good = self.query(box, "/tmp/signed", "read")
        assert anyone.get("/files", params=good, headers={"X-Access-Token": "wrong"}).status_code == 401

    def test_a_signed_upload_writes_only_what_was_signed(self, box: Box, anyone: httpx.Client) -> None:
        query = self.query(box, "/tmp/signed-dir/", "write")
        body = {"path": "/tmp/other", "content": "x"}
        assert anyone.post("/files", params=query, json=body).status_code == 400
        assert anyone.post("/files", params=query, files={"file": ("../other", b"x")}).status_code == 400
        assert anyone.post("/files", params=query, files={"file": ("/abs", b"x")}).json()[0]["path"] == (
            "/tmp/signed-dir/abs"
        )
        assert box.sh("ls /tmp/other").stdout == ""

    def test_without_a_path_an_upload_names_its_own(self, box: Box, anyone: httpx.Client) -> None:
        """The third vector: a URL for uploads of any name."""
        query = self.query(box, "", "write")
        assert anyone.post("/files", params=query, files={"file": ("/tmp/named", b"x")}).status_code == 200

    def test_a_browser_gets_a_file_to_save(self, box: Box, anyone: httpx.Client) -> None:
        box.http.post("/file", params={"path": "/tmp/a b.html"}, content=b"<script>")
        headers = anyone.get("/files", params=self.query(box, "/tmp/a b.html", "read")).headers
        assert headers["content-type"] == "application/octet-stream"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-disposition"] == "inline; filename*=UTF-8''a%20b.html"


class TestUsers:
    """3.3: there is one user."""

    @pytest.mark.parametrize(("username", "status"), [("user", 200), ("", 200), ("root", 200), ("nobody", 401)])
    def test_only_our_user_is_known(self, box: Box, username: str, status: int) -> None:
        box.http.post("/file", params={"path": "/tmp/u"}, content=b"x")
        for route in ("/file", "/files", "/files/content"):
            assert box.http.get(route, params={"path": "/tmp/u", "username": username}).status_code == status
        basic = {"Authorization": "Basic " + base64.b64encode(f"{username}:".encode()).decode()}
        assert box.http.post("/filesystem.Filesystem/Stat", json={"path": "/tmp"}, headers=basic).status_code == status
        assert box.http.post("/run", json={"cmd": "true"}, headers=basic).status_code == status

    @pytest.mark.parametrize("value", ["Basic ***", "Basic /w=="])
    def test_a_user_that_is_no_text_is_401(self, box: Box, value: str) -> None:
        headers = {"Authorization": value}
        assert box.http.get("/envs", headers=headers).status_code == 401


class TestEncodings:
    """3.4: gzip when it is asked for, never with a range."""

    @pytest.mark.parametrize(
        ("header", "may_pack", "expected"),
        [
            ("", True, "identity"),
            ("gzip", True, "gzip"),
            ("gzip", False, "identity"),
            ("br, GZIP ;q=0.5", True, "gzip"),
            ("gzip;q=0", True, "identity"),
            ("gzip;q=0.5, identity", True, "identity"),
            ("identity;q=0, *", True, "gzip"),
            ("*", True, "identity"),
            ("gzip;q=x", True, "identity"),
            ("identity;q=0", True, None),
            ("br, *;q=0", True, None),
            ("gzip, identity;q=0", False, None),
        ],
    )
    def test_the_choice(self, header: str, may_pack: bool, expected: str | None) -> None:
        if expected is None:
            with pytest.raises(RequestError) as refused:
                chosen_encoding(header, may_pack=may_pack)
            assert refused.value.status == 406
        else:
            assert chosen_encoding(header, may_pack=may_pack) == expected

    def test_a_download_is_packed_for_who_asks(self, box: Box) -> None:
        data = bytes(range(256)) * 4000
        box.http.post("/file", params={"path": "/tmp/pack"}, content=data)
        with box.http.stream(
            "GET", "/files", params={"path": "/tmp/pack"}, headers={"Accept-Encoding": "gzip"}
        ) as answer:
            packed = b"".join(answer.iter_raw())
            assert answer.headers["content-encoding"] == "gzip"
            assert "Accept-Encoding" in answer.headers["vary"]
        assert len(packed) < len(data) // 10
        assert gzip.decompress(packed) == data
        plain = box.http.get("/file", params={"path": "/tmp/pack"}, headers={"Accept-Encoding": "gzip"})
        assert "content-encoding" not in plain.headers
        ranged = box.http.get(
            "/files", params={"path": "/tmp/pack"}, headers={"Accept-Encoding": "gzip", "Range": "bytes=0-9"}
        )
        assert (ranged.status_code, ranged.content) == (206, data[:10])
        none = box.http.get("/files", params={"path": "/tmp/pack"}, headers={"Accept-Encoding": "identity;q=0"})
        assert none.status_code == 406

    def test_an_upload_of_several_gzip_members_is_one_file(self, box: Box) -> None:
        packed = gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(b"two")
        headers = {"Content-Encoding": "gzip"}
        assert box.http.post("/file", params={"path": "/tmp/m"}, content=packed, headers=headers).status_code == 204
        assert box.run("cat", "/tmp/m").stdout == "one two"
        trailing = gzip.compress(b"x") + b"trailing"
        assert box.http.post("/file", params={"path": "/tmp/m"}, content=trailing, headers=headers).status_code == 400

    def test_a_bomb_is_refused_and_the_old_file_stays(self, box: Box) -> None:
        box.http.post("/file", params={"path": "/dev/shm/bomb"}, content=b"old")
        bomb = gzip.compress(b"\0" * (100 << 20))
        assert len(bomb) < 200_000
        headers = {"Content-Encoding": "gzip"}
        answer = box.http.post("/file", params={"path": "/dev/shm/bomb"}, content=bomb, headers=headers)
        assert answer.status_code == 507
        assert box.http.get("/file", params={"path": "/dev/shm/bomb"}).content == b"old"

    @pytest.mark.parametrize("packed", [gzip.compress(b"\0" * (8 << 20)), gzip.compress(b"\0" * 65_536) * 128])
    async def test_what_comes_out_is_counted_while_it_comes(self, packed: bytes) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield packed

        sizes = []

        async def collect() -> None:
            async for piece in unpack(chunks(), 1 << 20):
                sizes.append(len(piece))

        with pytest.raises(RequestError) as refused:
            await collect()
        assert refused.value.status == 413
        assert sum(sizes) <= 1 << 20


class TestEdit:
    """4.2; the rule is ours."""

    def test_text_that_is_there_once_is_replaced(self, box: Box) -> None:
        box.sh("printf 'one é two\\n' > e; chmod 751 e; ln -sfn e edit-link")
        answer = rpc(box, "Edit", path="edit-link", oldText="é tw", newText="… m")
        assert (answer.status_code, answer.json()) == (200, {"message": "ok"})
        assert box.sh("cat e; stat -c %a e; readlink edit-link").stdout == "one … mo\n751\ne\n"

    @pytest.mark.parametrize(
        ("old", "status", "words"),
        [
            ("missing", 400, "nowhere"),
            ("twice", 400, "more than once"),
            ("aa", 400, "more than once"),
            ("", 400, "not empty"),
            (None, 400, "must be text"),
            ("\ud800", 400, "whole characters"),
        ],
    )
    def test_anything_else_changes_nothing(self, box: Box, old: str | None, status: int, words: str) -> None:
        content = "twice twice aaa"
        box.http.post("/file", params={"path": "e2"}, content=content.encode())
        body = json.dumps({"path": "e2", "oldText": old, "newText": "x"})
        answer = box.http.post("/filesystem.Filesystem/Edit", content=body)
        assert (answer.status_code, words in error_of(answer)) == (status, True)
        assert box.run("cat", "e2").stdout == content

    def test_bytes_that_are_no_text_stay_as_they_are(self, box: Box) -> None:
        box.http.post("/file", params={"path": "e3"}, content=b"\xff\0old\xfe")
        assert rpc(box, "Edit", path="e3", oldText="old", newText="new").status_code == 200
        assert box.http.get("/file", params={"path": "e3"}).content == b"\xff\0new\xfe"

    @pytest.mark.parametrize(
        ("path", "status"), [("nope", 404), ("/tmp", 400), ("/dev/zero", 400), ("/usr/bin/env", 400), ("big", 413)]
    )
    def test_what_cannot_be_edited(self, box: Box, path: str, status: int) -> None:
        box.sh("truncate -s 17M big")
        assert rpc(box, "Edit", path=path, oldText="no such text", newText="x").status_code == status

    def test_a_file_of_somebody_else_is_403(self, box: Box) -> None:
        answer = rpc(box, "Edit", path="/etc/passwd", oldText="user:x:1000", newText="user:x:0")
        assert answer.status_code == 403


class TestContent:
    def test_a_compose_is_atomic_and_bounded(self, box: Box) -> None:
        box.sh("printf a > /tmp/p1; rm -f /tmp/p2 /tmp/p3; mkfifo /tmp/p3; printf old > /tmp/p4; ln -sfn p4 /tmp/p5")

        def compose(*sources: str, to: str = "/tmp/p4") -> int:
            body = {"source_paths": list(sources), "destination": to}
            return box.http.post("/files/compose", json=body).status_code

        assert compose("/tmp/p1", "/tmp/p2") == 404
        assert compose("/tmp/p1", "/tmp/p3") == 400
        assert compose("/tmp/p1", "/tmp") == 400
        assert compose("/tmp/p1", "/tmp/p4", to="/tmp/p5") == 400, "the destination is a source by another name"
        assert compose(*["/tmp/p1"] * 1001) == 400
        assert box.sh("cat /tmp/p1 /tmp/p4; ls -A /tmp | grep part").stdout == "aold"
        assert compose("/tmp/p1", "/tmp/p1") == 200
        assert box.sh("cat /tmp/p4; ls /tmp/p1").stdout == "aa"

    def test_a_batch_may_be_bigger_than_other_json(self, box: Box) -> None:
        files = [{"path": "/tmp/batch", "content": "x" * (3 << 20)}]
        assert box.http.post("/files/batch", json={"files": files}).json()["files"][0]["bytes_written"] == 3 << 20
        assert box.http.post("/files/batch", content=b" " * ((16 << 20) + 1)).status_code == 413

    @pytest.mark.parametrize(
        "file", [{"path": "/tmp/b", "data": "!"}, {"path": "/tmp/b", "content": 1}, {"content": "x"}, {"path": "a\0"}]
    )
    def test_a_bad_file_of_a_batch_is_400(self, box: Box, file: dict[str, Any]) -> None:
        assert box.http.post("/files/batch", json={"files": [file]}).status_code == 400

    def test_an_image_that_is_too_big_to_show_is_413(self, box: Box) -> None:
        box.sh("truncate -s 5M big.png big.txt")
        assert box.http.get("/files/content", params={"path": "big.png"}).status_code == 413
        shown = box.http.get("/files/content", params={"path": "big.txt"}).json()
        assert (len(shown["content"]), shown["truncated"]) == (4 << 20, True)


class TestStatus:
    """3.4: the small routes."""

    def test_variables_are_configured_for_later_processes(self, local_server: LocalServer) -> None:
        with local_server.sandbox(envVars={"A": "1", "B": "1"}) as box:
            assert box.http.post("/configure", json={}).status_code == 204
            answer = box.http.post("/configure", json={"envs": {"B": "2", "C": "é\n"}})
            assert (answer.status_code, answer.content) == (204, b"")
            assert {"A": "1", "B": "2", "C": "é\n", "HOME": HOME}.items() <= box.http.get("/envs").json().items()
            assert box.sh('printf "$A$B$C"').stdout == "12é\n"
            with box.start("sh", "-c", 'printf "$B"') as stream:
                assert stream.event()["data"] == {"stdout": base64.b64encode(b"2").decode()}

    @pytest.mark.parametrize(
        ("envs", "status"),
        [
            ({"A=B": "x"}, 400),
            ({"": "x"}, 400),
            ({"A": "\0"}, 400),
            ({"A": 1}, 400),
            ([], 400),
            ({"A": "x" * 200_000}, 413),
        ],
    )
    def test_bad_variables_are_refused_and_change_nothing(self, box: Box, envs: object, status: int) -> None:
        before = box.http.get("/envs").json()
        assert box.http.post("/configure", json={"envs": envs}).status_code == status
        assert box.http.get("/envs").json() == before

    def test_metrics_are_of_this_sandbox(self, local_server: LocalServer) -> None:
        with local_server.sandbox() as box:
            first = box.http.get("/metrics").json()
            assert all(isinstance(value, (int, float)) for value in first.values())
            assert set(first) == {
                "ts",
                "cpu_count",
                "cpu_used_pct",
                "mem_total",
                "mem_used",
                "mem_total_mib",
                "mem_used_mib",
                "mem_cache",
                "disk_used",
                "disk_total",
                "net_rx_bytes",
                "net_tx_bytes",
            }
            assert abs(first["ts"] - time.time()) < 10
            box.sh("head -c 50M /dev/zero > /tmp/used")
            with box.start("python3", "-c", "x = b'1' * 60_000_000; print(1, flush=True)\nwhile True: pass") as stream:
                stream.event()
                busy = wait_for(
                    lambda: next((now for now in [box.http.get("/metrics").json()] if now["cpu_used_pct"] > 1), None),
                    what="a busy CPU",
                )
            assert busy["mem_cache"] - first["mem_cache"] == 50 << 20
            assert busy["mem_used"] - first["mem_used"] > (50 << 20) + 60_000_000
            assert busy["mem_used_mib"] == busy["mem_used"] >> 20
            assert busy["cpu_used_pct"] <= 100


class TestHostileTrees:
    """What code in a sandbox can prepare."""

    def test_a_hundred_thousand_entries_are_refused(self, box: Box) -> None:
        box.python("import os; os.makedirs('/tmp/many'); [os.mknod(f'/tmp/many/{i}') for i in range(100_000)]")
        answer = rpc(box, "ListDir", path="/tmp/many")
        assert (answer.status_code, error_of(answer)[:22]) == (400, "more than 10000 entrie")
        assert rpc(box, "Remove", path="/tmp/many").json() == {}
        assert rpc(box, "Stat", path="/tmp/many").status_code == 404

    def test_a_tree_deeper_than_any_path_is_listed_and_removed(self, box: Box) -> None:
        deep = """
import os
os.makedirs("/tmp/deep")
os.chdir("/tmp/deep")
for _ in range(1500):
    os.mkdir("abcdefghij"); open("f", "w").close(); os.chdir("abcdefghij")
"""
        box.python(deep)
        listed = rpc(box, "ListDir", path="/tmp/deep", depth=10_000).json()["entries"]
        assert len(listed) == 2 * 64
        assert rpc(box, "Remove", path="/tmp/deep").json() == {}
        assert rpc(box, "Stat", path="/tmp/deep").status_code == 404

    def test_a_removed_tree_does_not_take_along_what_it_links_to(self, box: Box) -> None:
        box.sh(
            "mkdir -p safe tree/a/b; echo 1 > safe/f; ln -s ../../../safe tree/a/b/l; chmod 000 tree/a/b; chmod 0 tree"
        )
        assert rpc(box, "Remove", path="tree").json() == {}
        assert box.sh("cat safe/f; ls tree").stdout == "1\n"

    def test_loops_of_links_end(self, box: Box) -> None:
        box.sh("mkdir -p loops/a; ln -sfn ../a loops/a/self; ln -sfn y loops/x; ln -sfn x loops/y")
        names = [entry["path"] for entry in rpc(box, "ListDir", path="loops", depth=64).json()["entries"]]
        assert names == [f"{HOME}/loops/{name}" for name in ("a", "a/self", "x", "y")]
        assert box.http.get("/file", params={"path": "loops/x"}).status_code == 400
        assert rpc(box, "Stat", path="loops/x").json()["entry"]["type"] == "FILE_TYPE_SYMLINK"
        assert rpc(box, "Stat", path="loops/a/self/self/self/self").status_code == 200

    def test_strange_kinds_of_files_are_told_and_not_opened(self, box: Box) -> None:
        box.sh("mkdir -p kinds; mkfifo kinds/fifo; ln -sfn /dev/zero kinds/zero")
        box.python("import socket; socket.socket(socket.AF_UNIX).bind('kinds/socket')")
        for name in ("fifo", "zero", "socket"):
            path = f"kinds/{name}"
            for route in ("/file", "/files", "/files/content"):
                assert box.http.get(route, params={"path": path}).status_code == 400
            assert box.http.post("/file", params={"path": path}, content=b"x").status_code == 400
            assert rpc(box, "Edit", path=path, oldText="a", newText="b").status_code == 400
        assert rpc(box, "Stat", path="kinds/fifo").json()["entry"]["type"] == "FILE_TYPE_UNSPECIFIED"

    def test_names_that_are_no_text_can_be_told_and_removed(self, box: Box) -> None:
        box.python(
            "import os; os.makedirs(b'raw/\\xff\\xfe'); os.mknod(b'raw/\\xff\\xfe/\\x80');"
            "os.symlink(b'\\xff', b'raw/l')"
        )
        entries = rpc(box, "ListDir", path="raw", depth=3).json()["entries"]
        assert sorted(entry["name"] for entry in entries) == ["l", "\ufffd", "\ufffd\ufffd"]
        assert rpc(box, "Remove", path="raw").json() == {}
        assert box.sh("ls raw").exit_code == 2

    @pytest.mark.parametrize(
        ("path", "status"),
        [("a/" * 2040, 404), ("n" * 256, 400), ("é" * 200, 400), ("a\0b", 400), ("..", 200), ("/..", 200)],
    )
    def test_paths_at_the_limits(self, box: Box, path: str, status: int) -> None:
        assert rpc(box, "Stat", path=path).status_code == status
        if status != 200:
            assert box.http.post("/files", params={"path": path}, content=b"x", headers=RAW).status_code in (400, 200)
