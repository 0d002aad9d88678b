"""The two legacy tables as the current application creates them."""

TABLE_DDL = """
CREATE TABLE workshop_students (
    session_token text PRIMARY KEY,
    student_email text NOT NULL,
    student_name text,
    exercises jsonb DEFAULT '{}',
    bug_reports jsonb DEFAULT '[]',
    started_at timestamptz DEFAULT now(),
    last_activity timestamptz DEFAULT now(),
    total_time_spent integer DEFAULT 0,
    completion_rate integer DEFAULT 0,
    repo_created boolean DEFAULT false,
    demo_mode boolean DEFAULT false,
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now()
);

CREATE OR REPLACE FUNCTION update_updated_at_column() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at = now();
    RETURN NEW;
END;
$$;
CREATE TRIGGER update_workshop_students_updated_at BEFORE UPDATE ON workshop_students
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

CREATE TABLE student_configs (
    session_token text PRIMARY KEY,
    student_name text,
    student_email text,
    openai_api_key text,
    system_prompt text,
    tools jsonb DEFAULT '[]',
    voice_settings jsonb DEFAULT '{}',
    use_case_description text,
    call_direction text,
    ivr_greeting text,
    tts_provider text,
    selected_voice text,
    selected_phone_number text,
    websocket_url text,
    codespace_url text,
    github_repo_url text,
    railway_url text,
    demo_mode boolean DEFAULT false,
    current_step integer DEFAULT 0,
    twilio_connected boolean DEFAULT false,
    openai_connected boolean DEFAULT false,
    call_direction_chosen boolean DEFAULT false,
    services_ready boolean DEFAULT false,
    step4_code_validated boolean DEFAULT false,
    step4_committed boolean DEFAULT false,
    step4_deployed boolean DEFAULT false,
    step5_code_validated boolean DEFAULT false,
    step5_committed boolean DEFAULT false,
    step5_deployed boolean DEFAULT false,
    step6_code_validated boolean DEFAULT false,
    step6_committed boolean DEFAULT false,
    step6_deployed boolean DEFAULT false,
    system_prompt_saved boolean DEFAULT false,
    step7_committed boolean DEFAULT false,
    step7_deployed boolean DEFAULT false,
    tools_configured boolean DEFAULT false,
    step8_code_validated boolean DEFAULT false,
    step8_committed boolean DEFAULT false,
    step8_deployed boolean DEFAULT false,
    project_deployed boolean DEFAULT false,
    ci_service_sid text,
    twilio_account_sid text,
    twilio_auth_token text,
    enable_persistent_memory boolean DEFAULT false,
    memory_retention_days integer DEFAULT 30,
    created_at timestamp DEFAULT now(),
    updated_at timestamp DEFAULT now()
);
"""
INDEX_DDL = """
CREATE INDEX idx_students_email ON workshop_students (student_email);
CREATE INDEX idx_students_last_activity ON workshop_students (last_activity DESC);
CREATE INDEX idx_sessions_email ON student_configs (student_email);
"""
