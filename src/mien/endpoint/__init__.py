"""Client of any OpenAI-compatible chat endpoint: `Endpoint(base_url, model).chat(messages, ...) -> Reply`.

Every way an endpoint can fail (hanging, trickling, refusing, garbage) ends in one `EndpointError` sentence.
It does not know what the replies are for.
"""

from mien.endpoint.client import Endpoint
from mien.endpoint.records import ChatRequest, EndpointConfig, Reply, Usage

__all__ = ["ChatRequest", "Endpoint", "EndpointConfig", "Reply", "Usage"]
