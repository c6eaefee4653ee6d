-- The four airports of Puerto Rico and the Virgin Islands that the list lacks.
INSERT INTO public.airport (faa, name, tz, dst, tzone)
VALUES ('BQN', 'Rafael Hernandez Airport', -4, 'N', 'America/Puerto_Rico'),
       ('PSE', 'Mercedita Airport', -4, 'N', 'America/Puerto_Rico'),
       ('SJU', 'Luis Munoz Marin International Airport', -4, 'N', 'America/Puerto_Rico'),
       ('STT', 'Cyril E. King Airport', -4, 'N', 'America/St_Thomas')
    ON CONFLICT DO NOTHING
