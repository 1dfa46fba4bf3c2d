"""Uploads and downloads."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, status
from starlette.responses import Response

from foldase.store.records import artifact_json
from foldase_web.deps import ServicesDep, StoreDep
from foldase_web.schemas.artifacts import Artifact, ArtifactDetail, ZarrGroup
from foldase_web.schemas.base import Name
from foldase_web.security import announced_length
from foldase_web.services import artifacts
from foldase_web.services.trees import read_group
from foldase_web.services.uploads import Upload, check_digest, check_upload_name, upload_type

router = APIRouter(tags=["artifacts"])

Digest = Annotated[str, Path(description="`sha256:` and 64 hex digits, or the digits alone")]
FilePath = Annotated[str, Path(description="path inside the tree, as the manifest has it")]
NodePath = Annotated[str, Path(description="group or array inside the tree, `group/array`")]
RangeHeader = Annotated[str | None, Header(alias="Range", description="one range, `bytes=0-99`")]
IfNoneMatch = Annotated[str | None, Header(alias="If-None-Match")]
_BYTES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The bytes, as an attachment with the media type of the file.",
        "content": {"*/*": {"schema": {}}},
    },
    206: {"description": "The asked-for range.", "content": {"*/*": {"schema": {}}}},
    304: {"description": "The bytes that the client already has."},
}
_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post(
    "/blobs", operation_id="upload_blob", status_code=status.HTTP_201_CREATED, openapi_extra=_UPLOAD_BODY
)
async def upload_blob(
    request: Request,
    services: ServicesDep,
    name: Annotated[Name, Query(description="what people call the file; never a path")] = "upload",
    type: Annotated[  # noqa: A002  # the name of the parameter in the API
        str, Query(max_length=50, description="a file type of the language, for example `alignment`")
    ] = "file",
    sha256: Annotated[
        str | None, Header(alias="X-Content-SHA256", description="of the whole body, checked on arrival")
    ] = None,
) -> Artifact:
    """Store the request's body. It is streamed, hashed and refused as soon as it exceeds the limit."""
    upload = Upload(
        services.store,
        name=check_upload_name(name),
        kind=upload_type(type),
        expected=check_digest(sha256),
        limit_bytes=services.settings.upload_limit_bytes,
    )
    stored = await upload.receive(request.stream(), announced_length(request.headers))
    return Artifact.model_validate(artifact_json(stored))


@router.get("/artifacts/{digest}", operation_id="get_artifact")
def get_artifact(digest: Digest, store: StoreDep) -> ArtifactDetail:
    """What is known of an artifact, with its files where it is a tree."""
    return ArtifactDetail.model_validate(artifacts.describe(store, digest))


@router.get(
    "/artifacts/{digest}/content",
    operation_id="download_artifact",
    response_class=Response,
    responses=_BYTES,
)
def download_artifact(
    digest: Digest, store: StoreDep, wanted: RangeHeader = None, if_none_match: IfNoneMatch = None
) -> Response:
    """The bytes of a file; a tree comes as a zip archive."""
    return artifacts.download(store, digest, wanted, if_none_match)


@router.get(
    "/artifacts/{digest}/files/{path:path}",
    operation_id="download_artifact_file",
    response_class=Response,
    responses=_BYTES,
)
def download_artifact_file(
    digest: Digest,
    path: FilePath,
    store: StoreDep,
    wanted: RangeHeader = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """One file of a tree."""
    return artifacts.download_file(store, digest, path, wanted, if_none_match)


@router.get(
    "/artifacts/{digest}/arrays/{path:path}",
    operation_id="get_artifact_array",
    response_class=Response,
    responses={
        200: {
            "description": "Values, little-endian in C order; X-Shape and X-Dtype describe them.",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            "headers": {
                "X-Shape": {"schema": {"type": "string"}, "description": "for example `40,64`"},
                "X-Dtype": {"schema": {"type": "string"}, "description": "numpy name, for example `float32`"},
            },
        },
        304: {"description": "The values that the client already has."},
    },
)
def get_artifact_array(
    digest: Digest,
    path: NodePath,
    services: ServicesDep,
    start: Annotated[str | None, Query(max_length=200, description="first index of every axis")] = None,
    stop: Annotated[
        str | None, Query(max_length=200, description="index after the last of every axis")
    ] = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """One array of a zarr tree, or a part of it."""
    return artifacts.array(services, digest, path, start, stop, if_none_match)


@router.get("/artifacts/{digest}/attributes", operation_id="get_artifact_root_attributes")
def get_artifact_root_attributes(digest: Digest, store: StoreDep) -> ZarrGroup:
    """The root group of a zarr tree: attributes, groups and arrays."""
    tree = artifacts.find_tree(store, digest)
    return ZarrGroup.model_validate(read_group(store.blobs, tree.digest, ""), from_attributes=True)


@router.get("/artifacts/{digest}/attributes/{path:path}", operation_id="get_artifact_attributes")
def get_artifact_attributes(digest: Digest, path: NodePath, store: StoreDep) -> ZarrGroup:
    """A group of a zarr tree: attributes, groups and arrays."""
    tree = artifacts.find_tree(store, digest)
    return ZarrGroup.model_validate(read_group(store.blobs, tree.digest, path), from_attributes=True)
