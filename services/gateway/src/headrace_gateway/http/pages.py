"""Pages of listings: size and token, as every listing of the public services has them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

PageSize = Annotated[int, Query(alias="pageSize", ge=0, le=1000, description="Entries wanted; 0 means 100.")]
PageToken = Annotated[str, Query(alias="pageToken", max_length=1024, description="`nextPageToken` of the page before.")]
