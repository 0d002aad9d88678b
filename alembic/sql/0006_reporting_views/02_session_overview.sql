-- Sessions for people and BI tools: flags instead of keys and prompts. The token is there to look a
-- session up by; it lets its holder in, so this is the one view to grant with care.
CREATE VIEW session_overview AS
SELECT
    s.session_token,
    s.student_id,
    st.student_email,
    st.student_name,
    st.github_username,
    s.selected_phone_number,
    s.selected_voice,
    s.tts_provider,
    s.call_direction,
    s.use_case_description,
    s.openai_api_key IS NOT NULL AS has_api_key,
    s.system_prompt IS NOT NULL AS has_system_prompt,
    s.tools <> '[]' AS has_tools,
    s.demo_mode,
    s.is_active,
    s.current_step,
    s.completion_rate,
    s.total_time_spent,
    s.twilio_connected,
    s.openai_connected,
    s.call_direction_chosen,
    s.services_ready,
    s.step4_code_validated,
    s.step4_committed,
    s.step4_deployed,
    s.step5_code_validated,
    s.step5_committed,
    s.step5_deployed,
    s.step6_code_validated,
    s.step6_committed,
    s.step6_deployed,
    s.system_prompt_saved,
    s.step7_committed,
    s.step7_deployed,
    s.tools_configured,
    s.step8_code_validated,
    s.step8_committed,
    s.step8_deployed,
    s.project_deployed,
    s.started_at,
    s.last_activity,
    s.expires_at,
    s.created_at,
    s.updated_at
FROM sessions AS s
JOIN students AS st ON st.student_id = s.student_id;
COMMENT ON VIEW session_overview IS
    'Sessions with their students, one row each; flags instead of secrets, but with the whole token.';
COMMENT ON COLUMN session_overview.has_api_key IS 'The session has an OpenAI API key.';
COMMENT ON COLUMN session_overview.has_system_prompt IS 'The session has a prompt of its own.';
COMMENT ON COLUMN session_overview.has_tools IS 'The session has at least one tool.';

-- the others are what they are in the tables
DO $$
DECLARE
    col record;
BEGIN
    FOR col IN
        SELECT v.attname AS name, col_description(t.attrelid, t.attnum) AS comment
        FROM pg_attribute AS v
        JOIN LATERAL (
            SELECT a.attrelid, a.attnum
            FROM pg_attribute AS a
            WHERE a.attrelid IN ('public.sessions'::regclass, 'public.students'::regclass)
              AND a.attname = v.attname AND NOT a.attisdropped
            ORDER BY a.attrelid = 'public.sessions'::regclass DESC
            LIMIT 1
        ) AS t ON true
        WHERE v.attrelid = 'public.session_overview'::regclass AND v.attnum > 0
    LOOP
        EXECUTE format('COMMENT ON COLUMN public.session_overview.%I IS %L', col.name, col.comment);
    END LOOP;
END
$$
