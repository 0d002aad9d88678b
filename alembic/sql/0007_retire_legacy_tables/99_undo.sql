DO $$
BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        PERFORM bridge.retry('SELECT bridge.undo_cut_over()');
        DROP FUNCTION bridge.undo_cut_over();
        DROP FUNCTION bridge.cut_over();
    END IF;
END
$$
