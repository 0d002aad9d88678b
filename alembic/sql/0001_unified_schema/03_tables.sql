SELECT public.create_commented($tables$
CREATE TABLE students (  -- Students, one for each clean e-mail address.
    student_id uuid NOT NULL DEFAULT gen_random_uuid(),  -- Immutable identity of the student.
    student_email text NOT NULL,  -- Address in lower case without surrounding white space.
    student_name text,  -- Name as the student wrote it.
    github_username text,  -- GitHub account; the legacy tables have none.
    created_at timestamptz DEFAULT now(),  -- Earliest known time of the student; NULL: unknown.
    updated_at timestamptz NOT NULL DEFAULT now(),  -- Last change of this row, kept by trigger.
    CONSTRAINT pk_students PRIMARY KEY (student_id),
    CONSTRAINT uq_students_student_email UNIQUE (student_email)
);
CREATE TABLE sessions (  -- Workshop sessions: all configuration and all progress of one token.
    session_token text NOT NULL,  -- Secret token of the browser session.
    student_id uuid NOT NULL,  -- Student of the session.
    selected_phone_number text,  -- Phone number in use.
    selected_voice text,  -- Voice of the assistant.
    tts_provider text,  -- Text-to-speech provider.
    call_direction text,  -- inbound or outbound.
    use_case_description text,  -- Project of the student, in words.
    openai_api_key text,  -- Secret, as the application stored it.
    system_prompt text,  -- Prompt of the assistant.
    ivr_greeting text,  -- First words of a call.
    tools jsonb NOT NULL DEFAULT '[]',  -- Function definitions of the assistant.
    voice_settings jsonb NOT NULL DEFAULT '{}',  -- Voice parameters by name.
    websocket_url text,  -- WebSocket endpoint of the student's server.
    codespace_url text,  -- GitHub Codespace.
    github_repo_url text,  -- GitHub repository.
    railway_url text,  -- Railway deployment.
    twilio_connected boolean NOT NULL DEFAULT false,  -- Step 1: Twilio account connected.
    openai_connected boolean NOT NULL DEFAULT false,  -- Step 1: OpenAI account connected.
    call_direction_chosen boolean NOT NULL DEFAULT false,  -- Step 2 done.
    services_ready boolean NOT NULL DEFAULT false,  -- Step 3 done.
    step4_code_validated boolean NOT NULL DEFAULT false,  -- Step 4: code validated.
    step4_committed boolean NOT NULL DEFAULT false,  -- Step 4: code committed.
    step4_deployed boolean NOT NULL DEFAULT false,  -- Step 4 done.
    step5_code_validated boolean NOT NULL DEFAULT false,  -- Step 5: code validated.
    step5_committed boolean NOT NULL DEFAULT false,  -- Step 5: code committed.
    step5_deployed boolean NOT NULL DEFAULT false,  -- Step 5 done.
    step6_code_validated boolean NOT NULL DEFAULT false,  -- Step 6: code validated.
    step6_committed boolean NOT NULL DEFAULT false,  -- Step 6: code committed.
    step6_deployed boolean NOT NULL DEFAULT false,  -- Step 6 done.
    system_prompt_saved boolean NOT NULL DEFAULT false,  -- Step 7 done.
    step7_committed boolean NOT NULL DEFAULT false,  -- Step 7: prompt committed.
    step7_deployed boolean NOT NULL DEFAULT false,  -- Step 7: prompt deployed.
    tools_configured boolean NOT NULL DEFAULT false,  -- Step 8: tools configured.
    step8_code_validated boolean NOT NULL DEFAULT false,  -- Step 8: code validated.
    step8_committed boolean NOT NULL DEFAULT false,  -- Step 8: code committed.
    step8_deployed boolean NOT NULL DEFAULT false,  -- Step 8 done.
    project_deployed boolean NOT NULL DEFAULT false,  -- Step 9 done.
    current_step integer NOT NULL DEFAULT 0,  -- Step the student is at, 0 to 9.
    completion_rate integer NOT NULL DEFAULT 0,  -- Steps done in percent, 0 to 100; kept by trigger.
    total_time_spent integer NOT NULL DEFAULT 0,  -- Seconds spent in the workshop.
    exercises jsonb NOT NULL DEFAULT '{}',  -- Progress by exercise key, for older code. Triggers keep it in line with step_progress.
    bug_reports jsonb NOT NULL DEFAULT '[]',  -- Bug reports of the student.
    legacy_extra jsonb NOT NULL DEFAULT '{}',  -- Legacy values without a column of their own: table, column, value. May hold secrets.
    demo_mode boolean NOT NULL DEFAULT false,  -- Session of a demonstration.
    is_active boolean NOT NULL DEFAULT true,  -- Session may be used.
    started_at timestamptz DEFAULT now(),  -- Start of the session; NULL: unknown.
    last_activity timestamptz DEFAULT now(),  -- Last activity; NULL: unknown.
    expires_at timestamptz NOT NULL DEFAULT now() + interval '30 days',  -- End of the session.
    created_at timestamptz DEFAULT now(),  -- First record of it; NULL: unknown.
    updated_at timestamptz NOT NULL DEFAULT now(),  -- Last change of this row, kept by trigger.
    CONSTRAINT pk_sessions PRIMARY KEY (session_token),
    CONSTRAINT ck_sessions_bug_reports CHECK (jsonb_typeof(bug_reports) = 'array'),
    CONSTRAINT ck_sessions_exercises CHECK (jsonb_typeof(exercises) = 'object'),
    CONSTRAINT ck_sessions_legacy_extra CHECK (jsonb_typeof(legacy_extra) = 'object'),
    CONSTRAINT ck_sessions_tools CHECK (jsonb_typeof(tools) = 'array'),
    CONSTRAINT ck_sessions_voice_settings CHECK (jsonb_typeof(voice_settings) = 'object'),
    CONSTRAINT ck_sessions_completion_rate CHECK (completion_rate BETWEEN 0 AND 100),
    CONSTRAINT ck_sessions_current_step CHECK (current_step BETWEEN 0 AND 9),
    CONSTRAINT ck_sessions_total_time_spent CHECK (total_time_spent >= 0)
);
CREATE TABLE step_progress (  -- Progress of a session, one row for each step that it began.
    session_token text NOT NULL,  -- Session.
    step_number integer NOT NULL,  -- Step, 1 to 9; follows step_name.
    student_id uuid NOT NULL,  -- Student of the session.
    step_name text NOT NULL,  -- Name of the step.
    started_at timestamptz DEFAULT now(),  -- First attempt; NULL: unknown.
    completed_at timestamptz,  -- Time of completion.
    time_spent integer NOT NULL DEFAULT 0,  -- Seconds spent in the step.
    attempts integer NOT NULL DEFAULT 0,  -- Attempts made.
    validation_passed boolean NOT NULL DEFAULT false,  -- The step is completed.
    code_submitted text,  -- Code that the student submitted.
    deployment_url text,  -- Address of the deployed result.
    created_at timestamptz NOT NULL DEFAULT now(),  -- Time of the insert.
    updated_at timestamptz NOT NULL DEFAULT now(),  -- Last change of this row, kept by trigger.
    CONSTRAINT pk_step_progress PRIMARY KEY (session_token, step_number),
    CONSTRAINT ck_step_progress_attempts CHECK (attempts >= 0),
    CONSTRAINT ck_step_progress_step_number CHECK (step_number BETWEEN 1 AND 9),
    CONSTRAINT ck_step_progress_time_spent CHECK (time_spent >= 0)
);
CREATE TABLE events (  -- Audit trail of the application and of the migration.
    id bigint GENERATED BY DEFAULT AS IDENTITY,  -- Number of the event.
    student_id uuid,  -- Student of the event; NULL: none, or deleted.
    session_token text,  -- Session of the event; NULL: none, or deleted.
    event_type text NOT NULL,  -- Kind of event. The migration writes legacy_merge and merge_note.
    event_data jsonb NOT NULL DEFAULT '{}',  -- Details; never a secret value.
    created_at timestamptz NOT NULL DEFAULT now(),  -- Time of the event.
    CONSTRAINT pk_events PRIMARY KEY (id)
);
$tables$)
