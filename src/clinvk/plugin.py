"""The public interface for plug-ins: packages that add backends to clinvk (docs/plugins.md).

A plug-in is a subclass of `Backend` that an entry point of the group `clinvk.backends` names.

The promise: within one `API_VERSION`, every name that this module exports stays, with its fields, methods and their
meaning. New fields and methods have defaults. A change that breaks plug-ins increases the version, and clinvk reports a
plug-in written for another version instead of running it. All other modules of clinvk may change at any time.
"""
# ruff: noqa: I001  # one import statement for each module

from clinvk.backends.base import (
    API_VERSION as API_VERSION,
    PRIVATE as PRIVATE,
    Backend as Backend,
    Capabilities as Capabilities,
    Channel as Channel,
    Delivery as Delivery,
    Host as Host,
    Launch as Launch,
    ProtocolNotSupported as ProtocolNotSupported,
    Report as Report,
    SteerReply as SteerReply,
)
from clinvk.backends.checkup_base import (
    Checkup as Checkup,
    FlagProbe as FlagProbe,
    LoginProbe as LoginProbe,
    LoginStatus as LoginStatus,
    ProbeOutput as ProbeOutput,
    Remark as Remark,
)
from clinvk.backends.refusals import refuse_options as refuse_options
from clinvk.backends.shared import (
    Decoder as Decoder,
    OneShotChannel as OneShotChannel,
    crash_ending as crash_ending,
    decode_line as decode_line,
    plain_prompt as plain_prompt,
    with_schema as with_schema,
)
from clinvk.backends.text import TextDecoder as TextDecoder
from clinvk.types.errors import (
    AgentFailed as AgentFailed,
    AgentOverloaded as AgentOverloaded,
    AgentRateLimited as AgentRateLimited,
    AgentRejected as AgentRejected,
    AgentUnauthenticated as AgentUnauthenticated,
    InvalidRequest as InvalidRequest,
    NotResumable as NotResumable,
    SessionNotFound as SessionNotFound,
    Unsupported as Unsupported,
)
from clinvk.types.events import (
    AwaitingTools as AwaitingTools,
    Ending as Ending,
    Event as Event,
    InteractionRequested as InteractionRequested,
    Progress as Progress,
    RunFailed as RunFailed,
    RunFinished as RunFinished,
    RunStarted as RunStarted,
    TextDelta as TextDelta,
    ThinkingDelta as ThinkingDelta,
    ToolCall as ToolCall,
    ToolCallDelta as ToolCallDelta,
    ToolResult as ToolResult,
    Usage as Usage,
)
from clinvk.types.interaction import (
    FieldOption as FieldOption,
    Interaction as Interaction,
    InteractionAnswer as InteractionAnswer,
    QuestionField as QuestionField,
)
from clinvk.types.record import LimitWindow as LimitWindow
from clinvk.types.request import (
    ClientTool as ClientTool,
    Image as Image,
    RunRequest as RunRequest,
    ToolOutput as ToolOutput,
)
from clinvk.types.record import Resume as Resume
