"""The nine workshop steps as data: their numbers, names, exercise keys and the flags that finish them.

The SQL function ``workshop_steps()`` has the same facts; a test compares both.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One workshop step.

    ``number`` runs from 1 to 9. ``name`` is the value of ``step_progress.step_name``. The current
    application keeps the step in ``exercises`` under ``exercise_key``; its earliest version used
    ``early_key``. ``done_when`` lists the ``sessions`` flags that all have to be true.
    """

    number: int
    name: str
    exercise_key: str
    early_key: str
    done_when: tuple[str, ...]


STEPS: tuple[Step, ...] = (
    Step(
        1,
        "Connect Accounts",
        "step-1-connect-accounts",
        "connect-accounts",
        ("twilio_connected", "openai_connected"),
    ),
    Step(
        2,
        "Choose Use Case",
        "step-2-choose-use-case",
        "choose-use-case",
        ("call_direction_chosen",),
    ),
    Step(
        3,
        "Provision Services",
        "step-3-provision-services",
        "provision-number",
        ("services_ready",),
    ),
    Step(4, "Basic TwiML", "step-4-basic-twiml", "create-basic-twiml", ("step4_deployed",)),
    Step(
        5,
        "WebSocket Handler",
        "step-5-websocket-handler",
        "build-websocket-handler",
        ("step5_deployed",),
    ),
    Step(
        6,
        "ConversationRelay",
        "step-6-conversation-relay",
        "create-conversation-relay",
        ("step6_deployed",),
    ),
    Step(7, "Custom AI Prompt", "step-7-ai-tools", "add-ai-tools", ("system_prompt_saved",)),
    Step(8, "Tools & Functions", "step-8-test-call", "test-full-call", ("step8_deployed",)),
    Step(9, "Deploy Your System", "step-9-multichannel", "add-multichannel", ("project_deployed",)),
)

FLAGS: tuple[str, ...] = (
    "twilio_connected",
    "openai_connected",
    "call_direction_chosen",
    "services_ready",
    "step4_code_validated",
    "step4_committed",
    "step4_deployed",
    "step5_code_validated",
    "step5_committed",
    "step5_deployed",
    "step6_code_validated",
    "step6_committed",
    "step6_deployed",
    "system_prompt_saved",
    "step7_committed",
    "step7_deployed",
    "tools_configured",
    "step8_code_validated",
    "step8_committed",
    "step8_deployed",
    "project_deployed",
)
"""The 21 progress flags of ``sessions``, in the order of the table."""
