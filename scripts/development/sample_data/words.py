"""Names, texts and settings of the rows."""

import json

PEOPLE = """
    Ada Abebe Bruno Bauer Chloé Costa Dmitri Dubois Elena Eriksen Farid Fischer Grace García
    Hiro Hansen Inés Ibrahim João Jansen Karin Kowalski Łukasz Lopez Mei Müller Nadia Nakamura
    Olu O'Brien Priya Patel Quentin Quispe Rosa Rossi Søren Silva Tariq Tanaka Uma Usman
    Viktor Varga Wanjiru Wagner Ximena Xu Yusuf Şahin Zoë Zhang Amara Ali Björn Brown
    Carmen Chen Diego Davis Emre Evans Fatima Flores
"""
NAMES = PEOPLE.split()
ADDRESS_PARTS = PEOPLE.translate(str.maketrans("éíãŁøëöüŞ", "eiaLoeouS", "'")).lower().split()
DOMAINS = (
    "example.com",
    "example.org",
    "example.edu",
    "students.example.edu",
    "mail.example.net",
    "cs.example.edu",
    "workshop.example",
)

USE_CASES = (
    "Pizza orders by phone: menu, allergies, delivery time",
    "Appointment reminders for a dental practice (50% no-shows today)",
    "IT help desk: reset passwords & open tickets",
    'Hotel concierge, answers "what is open now?"',
    "Bank hotline that never asks for a PIN: hand over to a person instead",
    "Réservations d'un restaurant, en français",
    "Survey after a support call: 3 questions, < 2 minutes",
    "Vaccination campaign: who, where, when",
)
SENTENCES = (
    "Keep every answer below 40 words; callers can't scroll back.",
    'If the caller says "agent", transfer at once.',
    "Never promise a discount above 15%.",
    "Opening hours: Mon-Fri 9:00-17:00, Sat 10:00-14:00.",
    "Spell names letter by letter - e.g. Müller: M, U, E, L, L, E, R.",
    "Réponds en français si l'appelant parle français.",
    "Prices are in € and include 19% tax; say “about” before estimates.",
    "Ask for: name, phone number, preferred time.",
    "Do not read URLs aloud (https://example.com/menu?day=%d): offer a text message.",
    "Repeat the order; wait for a clear yes (はい, sí, oui).",
    "Path of the log: C:\\temp\\calls. Do not mention it.",
    "After two misunderstandings apologise & offer a call back.",
)
GREETINGS = (
    "Hello! Thanks for calling. How can I help?",
    "Hi, you've reached the workshop line.\nPlease tell me what you need.",
    "Bonjour ! Que puis-je faire pour vous ?",
    'Welcome. Say "menu" at any time: I am listening.',
    "",  # typed and deleted again
)
TOOL_NAMES = (
    ("lookup_order", 'Find an order by its number, e.g. "A-1042"'),
    ("book_slot", "Book an appointment: date, time, name"),
    ("send_sms", "Send a text message; at most 160 characters"),
    ("transfer_call", "Hand the call over to a person"),
)

# JSON as the application's JSON.stringify writes it.
dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _tool(name: str, description: str) -> dict[str, object]:
    parameters = {"type": "object", "properties": {"text": {"type": "string"}}}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


VOICES = tuple(
    (
        provider,
        voice,
        dump({"provider": provider, "voice": voice, "language": language, "speed": speed}),
    )
    for provider, voice, language in (
        ("google", "en-US-Journey-O", "en-US"),
        ("google", "en-GB-Neural2-B", "en-GB"),
        ("elevenlabs", "sample-voice-21", "en-US"),
        ("amazon", "Joanna-Neural", "en-US"),
        ("amazon", "Léa-Neural", "fr-FR"),
    )
    for speed in (0.9, 1, 1.15)
)

BUG = 'The button "Deploy" does nothing: 0% for 10 minutes'
NO_URLS: tuple[str | None, ...] = (None,) * 4

# Most configurations have no tool.
TOOLS = (
    *["[]"] * 4,
    *[dump([_tool(*tool) for tool in TOOL_NAMES[:count]]) for count in range(1, 5)],
)
